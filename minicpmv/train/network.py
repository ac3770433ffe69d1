"""The training pass over fixed shapes, on the very modules of `MiniCPMVForConditionalGeneration`.

Every picture has the same number of patch places and every text the same number of tokens, so that
`torch.compile` makes one graph of it; patches come as plain rows instead of strips.
`tests/test_pretrain.py` shows that the logits are those of the model's own forward.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.resampler import sincos_positions
from minicpmv.scenes.labels import (
    CELLS,
    CENTRE_CLASSES,
    COLOUR_CLASSES,
    GLYPH_CLASSES,
    NO_LABEL,
    OFFSET_UNIT,
    SHAPE_CLASSES,
)
from minicpmv.train.dialogue import FIRST_TURN, IGNORED, OPENING, PICTURE
from minicpmv.train.feed import Batch

TARGET_CLASSES = (len(SHAPE_CLASSES), len(COLOUR_CLASSES), CENTRE_CLASSES, len(GLYPH_CLASSES))
HEAD_SIZES = (*TARGET_CLASSES, CELLS**2, 2)  # classes, cells covered, offset of the middle
MAX_ANSWER_TOKENS = (
    48  # labels per dialogue that are learned; the rest of an overlong one is left out
)


class Tensors(NamedTuple):
    """A batch as the network takes it."""

    patches: (
        torch.Tensor
    )  # (batch, max_patches, channels * patch_size**2) in the model's dtype, -1 to 1
    patch_positions: torch.Tensor  # (batch, max_patches) rows of the tower's position table
    key_positions: torch.Tensor  # (batch, max_patches, hidden) sine-cosine code for the resampler
    patch_bias: torch.Tensor  # (batch, 1, 1, max_patches) 0 or a large negative number
    targets: torch.Tensor  # (batch, targets, max_patches) int64, IGNORED where none
    input_ids: torch.Tensor  # (batch, seq)
    position_ids: torch.Tensor  # (batch, seq)
    text_bias: torch.Tensor  # (batch, 1, seq, seq)
    answer_places: torch.Tensor  # (batch, MAX_ANSWER_TOKENS) where in the sequence
    answer_labels: torch.Tensor  # (batch, MAX_ANSWER_TOKENS), IGNORED where there is none


class Losses(NamedTuple):
    """Mean losses in nats, and the likeliest token at every answer place."""

    language: torch.Tensor
    dense: torch.Tensor
    predicted: torch.Tensor  # (batch, MAX_ANSWER_TOKENS)


def additive_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where attention is allowed, the dtype's minimum elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)


def attention_groups(groups: torch.Tensor, sees_picture: torch.Tensor) -> torch.Tensor:
    """Who may look at whom: (batch, seq, seq) bool, queries in rows; see `Dialogue`."""
    seq = groups.shape[1]
    asking, asked = groups[:, :, None], groups[:, None, :]
    allowed = (asking == asked) | ((asked == OPENING) & (asking >= PICTURE))
    allowed |= (asked == PICTURE) & (asking >= FIRST_TURN) & (sees_picture[:, :, None] > 0)
    return allowed & torch.ones(seq, seq, dtype=torch.bool).tril()


def answer_places(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places and labels of the first MAX_ANSWER_TOKENS learned tokens of every row, padded."""
    places = np.zeros((len(labels), MAX_ANSWER_TOKENS), dtype=np.int64)
    learned = np.full((len(labels), MAX_ANSWER_TOKENS), IGNORED, dtype=np.int64)
    for row, sequence in enumerate(labels):
        found = np.flatnonzero(sequence != IGNORED)[:MAX_ANSWER_TOKENS]
        places[row, : len(found)] = found
        learned[row, : len(found)] = sequence[found]
    return places, learned


class SigmoidGelu(nn.Module):
    """GELU in its tanh form, written with a sigmoid: the same function, twice as fast where `exp`
    is vectorised.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # (1 + tanh(z)) / 2 = sigmoid(2 z), with z = sqrt(2 / pi) * (x + 0.044715 x^3)
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


class TrainingNetwork(nn.Module):
    """The model with heads for the dense targets, which are not part of the checkpoint."""

    def __init__(self, model: MiniCPMVForConditionalGeneration, image_start: int) -> None:
        super().__init__()
        self.model = model
        self.image_start = image_start  # first placeholder of every sequence
        for layer in model.model.vision_tower.encoder.layers:
            layer.mlp.activation = SigmoidGelu()
        hidden_size = model.model.vision_tower.config.hidden_size
        self.heads = nn.Linear(hidden_size, sum(HEAD_SIZES))
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    @torch.no_grad()
    def tensors(self, batch: Batch) -> Tensors:
        """What the network takes, from plain arrays; everything that needs no gradient is computed
        here.
        """
        model = self.model.model
        dtype = self.model.dtype
        sizes = torch.from_numpy(batch.target_sizes)
        patches = torch.from_numpy(batch.patches)
        max_patches = patches.shape[1]
        index = torch.arange(max_patches)
        row, column = index // sizes[:, 1:], index % sizes[:, 1:]  # (batch, max_patches)
        half = self.model.lm_head.in_features // 2
        targets = torch.from_numpy(batch.targets).long()
        dialogue = batch.dialogue
        places, labels = answer_places(dialogue.labels)
        allowed = attention_groups(
            torch.from_numpy(dialogue.groups), torch.from_numpy(dialogue.sees_picture)
        )
        return Tensors(
            # As the processor: to 0 ... 1 first, then mean and deviation 0.5, in float32.
            patches=((patches.float() / 255 - 0.5) / 0.5).to(dtype),
            patch_positions=model.vision_tower.embeddings.position_ids(sizes, max_patches),
            key_positions=torch.cat(
                [sincos_positions(axis, half) for axis in (column, row)], dim=-1
            ).to(dtype),
            patch_bias=additive_mask(index < sizes.prod(dim=1)[:, None], dtype)[:, None, None],
            targets=targets.masked_fill(targets == NO_LABEL, IGNORED),
            input_ids=torch.from_numpy(dialogue.input_ids),
            position_ids=torch.from_numpy(dialogue.position_ids),
            text_bias=additive_mask(allowed, dtype)[:, None],
            answer_places=torch.from_numpy(places),
            answer_labels=torch.from_numpy(labels),
        )

    def look(self, tensors: Tensors) -> torch.Tensor:
        """Features of all patches: (batch, max_patches, vision hidden)."""
        tower = self.model.model.vision_tower
        embed = tower.embeddings
        hidden_states = nn.functional.linear(
            tensors.patches, embed.patch_embedding.weight.flatten(1), embed.patch_embedding.bias
        ) + embed.position_embedding(tensors.patch_positions)
        for layer in tower.encoder.layers:
            hidden_states = layer(hidden_states, tensors.patch_bias)
        return tower.post_layernorm(hidden_states)

    def resample(self, features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Visual tokens: (batch, query_num, hidden)."""
        resampler = self.model.model.resampler
        value = resampler.ln_kv(resampler.kv_proj(features))  # (batch, max_patches, hidden)
        query = resampler.ln_q(resampler.query)[None].expand(len(value), -1, -1)
        key = value + tensors.key_positions
        seen = resampler.attn(query, key, value, tensors.patch_bias)
        return resampler.ln_post(seen) @ resampler.proj

    def speak(self, visual_tokens: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Logits at the answer places: (batch, MAX_ANSWER_TOKENS, vocabulary)."""
        language_model = self.model.model.language_model
        hidden_states = language_model.embed_tokens(tensors.input_ids)
        start = self.image_start
        stop = start + visual_tokens.shape[1]
        hidden_states = torch.cat(
            [hidden_states[:, :start], visual_tokens, hidden_states[:, stop:]], dim=1
        )
        rotary = language_model.rotary_emb(hidden_states, tensors.position_ids)
        for layer in language_model.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=tensors.text_bias,
                position_ids=tensors.position_ids,
                position_embeddings=rotary,
            )
        places = tensors.answer_places[..., None].expand(-1, -1, hidden_states.shape[-1])
        return self.model.lm_head(language_model.norm(hidden_states.gather(1, places)))

    def dense_loss(self, features: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Mean cross-entropy of the classes, of the cells covered, and the error of the offsets."""
        predicted = self.heads(features).float().split(HEAD_SIZES, -1)
        loss = features.new_zeros((), dtype=torch.float32)
        num_classes = len(TARGET_CLASSES)
        for logits, target in zip(
            predicted[:num_classes], tensors.targets[:, :num_classes].unbind(1), strict=True
        ):
            loss = loss + nn.functional.cross_entropy(
                logits.flatten(0, 1),
                target.flatten(),
                # One patch in a hundred holds a middle; counting hangs on those.
                weight=logits.new_tensor((1.0, 8.0))
                if logits.shape[-1] == CENTRE_CLASSES
                else None,
                ignore_index=IGNORED,
            )
        covered = tensors.targets[:, num_classes:-2].mT  # (batch, max_patches, CELLS**2)
        of_cells = nn.functional.binary_cross_entropy_with_logits(
            predicted[-2], covered.clamp(min=0).float(), reduction="none"
        )
        loss = loss + (of_cells * (covered >= 0)).sum() / (covered >= 0).sum().clamp(min=1)
        offset = tensors.targets[:, -2:].mT  # (batch, max_patches, 2)
        error = nn.functional.smooth_l1_loss(
            predicted[-1], (offset - 128) * OFFSET_UNIT, reduction="none"
        )
        of_offsets = (error * (offset >= 0)).sum() / (offset >= 0).sum().clamp(min=1)
        return (loss + of_offsets) / len(HEAD_SIZES)

    def forward(self, tensors: Tensors, with_language: bool = True) -> Losses:
        features = self.look(tensors)
        dense = self.dense_loss(features, tensors)
        if not with_language:
            return Losses(torch.zeros(()), dense, tensors.answer_labels)
        logits = self.speak(self.resample(features, tensors), tensors).float()
        language = nn.functional.cross_entropy(
            logits.flatten(0, 1), tensors.answer_labels.flatten(), ignore_index=IGNORED
        )
        return Losses(language, dense, logits.argmax(-1))


@torch.no_grad()
def initialise(model: MiniCPMVForConditionalGeneration, generator: torch.Generator) -> None:
    """Random weights that learn soon.

    Matrices keep the scale of their input. Attention in the tower begins between patches that are
    near and alike (mimetic initialisation, arXiv 2305.09828), and the resampler's queries begin as
    a coarse map of the picture: without that, a long plateau passes before attention finds out
    where to look.
    """
    depth = {
        "vision_tower": len(model.model.vision_tower.encoder.layers),
        "language_model": len(model.model.language_model.layers),
    }
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or ".layers." not in name:
            continue
        parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        if name.endswith(("out_proj.weight", "o_proj.weight", "fc2.weight", "down_proj.weight")):
            layers = next(number for part, number in depth.items() if part in name)
            parameter.mul_((2 * layers) ** -0.5)  # the residual stream keeps its scale
    # Large enough that a token is not drowned by what the first layers add to it.
    embedding = model.get_input_embeddings().weight
    embedding.normal_(0, 0.2, generator=generator)
    _initialise_tower(model, generator)
    if math.isqrt(model.config.query_num) ** 2 == model.config.query_num:
        _initialise_resampler(model, generator)


def _rotation(size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.empty(size, size).normal_(generator=generator)).Q


def _initialise_tower(model: MiniCPMVForConditionalGeneration, generator: torch.Generator) -> None:
    """Positions as sines and cosines, and queries equal to keys: near and alike patches attend."""
    tower = model.model.vision_tower
    side = tower.embeddings.table_side
    hidden_size = tower.config.hidden_size
    place = torch.arange(side)
    row, column = torch.meshgrid(place, place, indexing="ij")
    num_frequencies = hidden_size // 4
    # From a quarter turn per patch down to one that hardly turns over the whole picture.
    frequency = 1.5 * 100.0 ** (-torch.arange(num_frequencies) / num_frequencies)
    angles = [axis.flatten()[:, None] * frequency for axis in (column, row)]
    code = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=-1)
    code -= code.mean(dim=0)
    tower.embeddings.position_embedding.weight.copy_(1.2 * code)
    for layer in tower.encoder.layers:
        rotation = _rotation(hidden_size, generator)  # each head projects on its own rows
        layer.self_attn.q_proj.weight.copy_(rotation)
        layer.self_attn.k_proj.weight.copy_(rotation)


def _initialise_resampler(
    model: MiniCPMVForConditionalGeneration, generator: torch.Generator
) -> None:
    """Query i starts as the position of the middle of cell i of a regular grid."""
    config: MiniCPMVConfig = model.config
    resampler = model.model.resampler
    hidden_size = model.lm_head.in_features
    side = math.isqrt(config.query_num)
    patches = config.image_size // config.patch_size  # per side of a square picture
    middle = (torch.arange(side) + 0.5) * patches / side - 0.5
    row, column = torch.meshgrid(middle, middle, indexing="ij")
    code = [sincos_positions(axis.flatten(), hidden_size // 2) for axis in (column, row)]
    resampler.query.copy_(torch.cat(code, dim=-1))
    # One rotation for queries and keys, so that every head sees both axes; content speaks softly.
    rotation = _rotation(hidden_size, generator)
    query, key, value = resampler.attn.in_proj_weight.chunk(3)
    query.copy_(4 * rotation)
    key.copy_(rotation)
    value.normal_(0, hidden_size**-0.5, generator=generator)
    resampler.attn.out_proj.weight.normal_(0, hidden_size**-0.5, generator=generator)
    if isinstance(resampler.kv_proj, nn.Linear):
        width = resampler.kv_proj.weight.shape[1]
        resampler.kv_proj.weight.normal_(0, width**-0.5, generator=generator)
    resampler.ln_kv.weight.fill_(0.2)
    # Visual tokens of about the size of text embeddings.
    resampler.proj.normal_(0, 0.3 * hidden_size**-0.5, generator=generator)
