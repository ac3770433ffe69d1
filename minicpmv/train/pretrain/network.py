"""The training pass over fixed shapes, on the modules of `MiniCPMVForConditionalGeneration`.

Every slice has the same number of patch places and every row of text the same number of tokens, so
that `torch.compile` makes one graph of it; patches come as plain rows instead of strips.
`tests/train/test_pretrain.py` shows that the logits are those of the model's own forward.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.positions import sincos_positions
from minicpmv.scenes.text.labels import (
    CELLS,
    CLASSES,
    COVERAGE,
    ENDS,
    FOLLOWING,
    FOLLOWING_CLASSES,
    NO_LABEL,
    NUM_PLACES,
    OFFSET,
    OFFSET_UNIT,
    ROW,
    TARGETS,
)
from minicpmv.scenes.text.lettering import PRINTABLE
from minicpmv.train.pretrain.dataloader import PADDING, Batch
from minicpmv.train.pretrain.dialogue import FIRST_TURN, IGNORED, OPENING, PICTURE, DialogueWriter

HEAD_SIZES = (*TARGETS.values(), CELLS**2, 2)  # classes, cells covered, offset of the middle
# Half of the patches of a scene are empty: their share of the loss is halved. One patch in a
# hundred holds a middle, and counting hangs on those. Reading hangs on the glyphs.
EMPTY_WEIGHT = 0.5
CENTRE_WEIGHT = 8.0
GLYPH_WEIGHT = 3.0
DENSE_SCALE = 1 / 6  # brings the sum of the dense losses near one
NAMING_SCALE = 0.5  # the naming loss begins at 7, the dense loss at 1
# Logit scales of the alignment loss: the smaller, the more a token points to its word embeddings.
NAME_SCALE = 0.5
PLACE_SCALE = 0.1
_CHARACTERS = (*PRINTABLE, " ", "\n")


class Tensors(NamedTuple):
    """A batch as the network takes it."""

    patches: torch.Tensor  # (slices, patches, channels * patch_size**2) -1 to 1, model's dtype
    patch_positions: torch.Tensor  # (slices, patches) rows of the tower's position table
    key_positions: torch.Tensor  # (slices, patches, hidden) sine-cosine code for the resampler
    patch_bias: torch.Tensor  # (slices, 1, 1, patches) 0 or a large negative number
    targets: torch.Tensor  # (slices, targets, patches) uint8
    names: torch.Tensor  # (slices, patches, vocabulary) 1 where a token names what is there
    following: torch.Tensor  # (slices, patches, characters) 1 where one follows what is there
    slots: torch.Tensor  # (slices, query_num) places in the flattened rows, the last for none
    input_ids: torch.Tensor  # (rows, seq)
    position_ids: torch.Tensor  # (rows, seq)
    text_bias: torch.Tensor  # (rows, 1, seq, seq)
    answer_places: torch.Tensor  # (answers,) where in the flattened rows
    answer_labels: torch.Tensor  # (answers,), IGNORED where there is none
    answer_weights: torch.Tensor  # (answers,) in the loss, 0 where there is none


class Losses(NamedTuple):
    """Mean losses in nats, the likeliest token at every answer place, and for every class target
    the share of its non-empty patches that are right.
    """

    language: torch.Tensor
    dense: torch.Tensor
    predicted: torch.Tensor  # (answers,)
    dense_right: torch.Tensor  # (targets,)


def additive_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where attention is allowed, the dtype's minimum elsewhere."""
    bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return bias.masked_fill_(~allowed, torch.finfo(dtype).min)


def attention_groups(
    sequences: torch.Tensor, groups: torch.Tensor, sees_picture: torch.Tensor
) -> torch.Tensor:
    """Who may look at whom: (rows, seq, seq) bool, queries in rows; see `TokenSequence`."""
    seq = groups.shape[1]
    asking, asked = groups[:, :, None], groups[:, None, :]
    allowed = (asking == asked) | ((asked == OPENING) & (asking >= PICTURE))
    allowed |= (asked == PICTURE) & (asking >= FIRST_TURN) & (sees_picture[:, :, None] > 0)
    allowed &= sequences[:, :, None] == sequences[:, None, :]
    return allowed & torch.ones(seq, seq, dtype=torch.bool, device=groups.device).tril()


class SigmoidGelu(nn.Module):
    """GELU in its tanh form, written with a sigmoid: the same function, twice as fast where `exp`
    is vectorised.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # (1 + tanh(z)) / 2 = sigmoid(2 z), with z = sqrt(2 / pi) * (x + 0.044715 x^3)
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


class TrainingNetwork(nn.Module):
    """The model with heads for the dense targets, which are not part of the checkpoint."""

    turn: torch.Tensor

    def __init__(self, model: MiniCPMVForConditionalGeneration, writer: DialogueWriter) -> None:
        super().__init__()
        self.model = model
        self.name_ids = {
            target: torch.tensor(writer.name_ids(classes)) for target, classes in CLASSES.items()
        }
        self.end_ids = {target: writer.name_ids(ends) for target, ends in ENDS.items()}
        self.character_ids = torch.tensor(writer.name_ids(_CHARACTERS))
        self.following = torch.tensor(
            [[c in name for c in _CHARACTERS] for name in FOLLOWING_CLASSES]
        )
        for layer in model.model.vision_tower.encoder.layers:
            layer.mlp.activation = SigmoidGelu()
        # What follows a character is said by its embedding, turned, so that it cannot be taken for
        # what is there.
        turn = _rotation(model.lm_head.in_features, torch.Generator().manual_seed(0))
        self.register_buffer("turn", turn, persistent=False)
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
        dtype, device = self.model.dtype, self.model.device

        def on_device(array) -> torch.Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        sizes = torch.from_numpy(batch.target_sizes)
        patches = on_device(batch.patches)
        max_patches = patches.shape[1]
        index = torch.arange(max_patches)
        row, column = index // sizes[:, 1:], index % sizes[:, 1:]  # (slices, max_patches)
        half = self.model.lm_head.in_features // 2
        key_positions = torch.cat([sincos_positions(axis, half) for axis in (column, row)], dim=-1)
        num_tokens = batch.input_ids.size
        slots = torch.from_numpy(batch.slots)[:, None] + torch.arange(self.model.config.query_num)
        slots = slots.masked_fill(torch.from_numpy(batch.slots)[:, None] < 0, num_tokens)
        sequences = on_device(batch.sequences)
        allowed = attention_groups(
            sequences, on_device(batch.groups), on_device(batch.sees_picture)
        )
        allowed &= (sequences != PADDING)[:, None, :]
        allowed |= torch.eye(allowed.shape[-1], dtype=torch.bool, device=device)
        positions = model.vision_tower.embeddings.position_ids(sizes, max_patches)
        targets = torch.from_numpy(batch.targets)
        vocabulary = self.model.config.vocab_size
        names = torch.zeros(*targets.shape[::2], vocabulary + 1, dtype=dtype, device=device)
        for target, ids in self.name_ids.items():
            classes = targets[:, ROW[target]].long()
            chosen = ids[classes.where(classes != NO_LABEL, 0)]
            names.scatter_(2, chosen.where(chosen >= 0, vocabulary)[..., None].to(device), 1)
        classes = targets[:, FOLLOWING].long()
        following = self.following[classes.where(classes != NO_LABEL, 0)].any(dim=1)
        return Tensors(
            # As the processor: to 0 ... 1 first, then mean and deviation 0.5, in float32.
            patches=((patches.float() / 255 - 0.5) / 0.5).to(dtype),
            patch_positions=positions.to(device),
            key_positions=key_positions.to(device, dtype),
            patch_bias=additive_mask(index < sizes.prod(dim=1)[:, None], dtype)[:, None, None].to(
                device
            ),
            targets=targets.to(device, non_blocking=True),
            names=names[..., :-1],
            following=following.to(device, dtype),
            slots=slots.to(device),
            input_ids=on_device(batch.input_ids),
            position_ids=on_device(batch.position_ids),
            text_bias=additive_mask(allowed, dtype)[:, None],
            answer_places=on_device(batch.answer_places),
            answer_labels=on_device(batch.answer_labels),
            answer_weights=on_device(batch.answer_weights),
        )

    def encode(self, tensors: Tensors) -> torch.Tensor:
        """Features of all patches: (batch, max_patches, vision hidden)."""
        tower = self.model.model.vision_tower
        embed = tower.embeddings
        hidden_states = nn.functional.linear(
            tensors.patches, embed.patch_embedding.weight.flatten(1), embed.patch_embedding.bias
        ) + embed.position_embedding(tensors.patch_positions)
        for layer in tower.encoder.layers:
            hidden_states = layer(hidden_states, tensors.patch_bias)
        return tower.post_layernorm(hidden_states)

    def resample(
        self, features: torch.Tensor, tensors: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Visual tokens (batch, query_num, hidden), and how much each looks at every patch
        (batch, query_num, max_patches).
        """
        resampler = self.model.model.resampler
        value = resampler.ln_kv(resampler.kv_proj(features))  # (batch, max_patches, hidden)
        query = resampler.ln_q(resampler.query)[None]
        key = value + tensors.key_positions
        query, key, value = resampler.attn.project(query, key, value)
        # Not SDPA: its backward is slow on CPU, and the weights are needed.
        scores = query @ key.mT * query.shape[-1] ** -0.5 + tensors.patch_bias
        looks = scores.softmax(dim=-1)  # (batch, heads, query_num, max_patches)
        seen = resampler.attn.out_proj((looks @ value).transpose(1, 2).flatten(2))
        return resampler.ln_post(seen) @ resampler.proj, looks.mean(dim=1)

    def alignment_loss(
        self, visual_tokens: torch.Tensor, looks: torch.Tensor, tensors: Tensors
    ) -> torch.Tensor:
        """Auxiliary alignment loss between visual tokens and word embeddings, in nats.

        The targets are the words and characters at the patches that a token attends to, so that the
        language model finds a picture told in its own words and has only to learn where to attend.
        A place is a balance between the words for both ends of its axis; of a character the next
        one is a target as well, which leads through a line.
        """
        looks = looks.detach()
        embedding = self.model.model.language_model.embed_tokens.weight
        named = looks @ tensors.names  # (batch, query_num, vocabulary)
        loss = _alignment_error(visual_tokens @ embedding.T, named)
        following = looks @ tensors.following  # (batch, query_num, characters)
        turned = visual_tokens @ self.turn
        loss = loss + _alignment_error(turned @ embedding[self.character_ids].T, following)
        for target, (first, last) in self.end_ids.items():
            classes = tensors.targets[:, ROW[target]]
            known = (classes > 0) & (classes != NO_LABEL)
            place = torch.where(known, (classes - 0.5) / NUM_PLACES, 0.0)
            seen = torch.stack([place, known], dim=-1).to(looks.dtype)  # (batch, max_patches, 2)
            place, weight = (looks @ seen).float().unbind(-1)  # (batch, query_num)
            logits = PLACE_SCALE * (visual_tokens @ (embedding[last] - embedding[first])).float()
            error = nn.functional.softplus(logits) * weight - logits * place
            loss = loss + error.sum() / weight.sum().clamp(min=1)
        return loss

    def decode(self, visual_tokens: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        """Logits at the answer places: (answers, vocabulary)."""
        language_model = self.model.model.language_model
        embedded = language_model.embed_tokens(tensors.input_ids)
        flat = torch.cat([embedded.flatten(0, 1), embedded.new_zeros(1, embedded.shape[-1])])
        flat = flat.index_copy(0, tensors.slots.flatten(), visual_tokens.flatten(0, 1))
        hidden_states = flat[:-1].view_as(embedded)
        rotary = language_model.rotary_emb(hidden_states, tensors.position_ids)
        for layer in language_model.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=tensors.text_bias,
                position_ids=tensors.position_ids,
                position_embeddings=rotary,
            )
        answers = hidden_states.flatten(0, 1)[tensors.answer_places]
        return self.model.lm_head(language_model.norm(answers))

    def dense_loss(
        self, features: torch.Tensor, tensors: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The classes' cross-entropy, that of the cells covered and the error of the offsets in one
        number; and the share of non-empty patches whose class is right, by target.
        """
        predicted = self.heads(features).split(HEAD_SIZES, -1)
        loss = features.new_zeros((), dtype=torch.float32)
        right = []
        for i, name in enumerate(TARGETS):
            target = tensors.targets[:, i]
            known = target != NO_LABEL
            there = known & (target > 0)
            classes = torch.where(known, target, 0).long()
            full, empty = (CENTRE_WEIGHT, 1.0) if name == "centre" else (1.0, EMPTY_WEIGHT)
            weight = torch.where(there, full, empty) * known
            logits = predicted[i].float()
            error = nn.functional.cross_entropy(
                logits.flatten(0, 1), classes.flatten(), reduction="none"
            )
            scale = GLYPH_WEIGHT if "glyph" in name else 1.0
            loss = loss + scale * (error * weight.flatten()).sum() / weight.sum().clamp(min=1)
            hits = (logits.argmax(-1) == classes) & there
            right.append(hits.sum() / there.sum().clamp(min=1))
        covered = tensors.targets[:, COVERAGE].mT  # (slices, max_patches, CELLS**2)
        known = covered != NO_LABEL
        of_cells = nn.functional.binary_cross_entropy_with_logits(
            predicted[-2].float(), torch.where(known, covered, 0).float(), reduction="none"
        )
        loss = loss + (of_cells * known).sum() / known.sum().clamp(min=1)
        offset = tensors.targets[:, OFFSET].mT  # (slices, max_patches, 2)
        known = offset != NO_LABEL
        of_offsets = nn.functional.smooth_l1_loss(
            predicted[-1].float(), (offset.float() - 128) * OFFSET_UNIT, reduction="none"
        )
        loss = loss + (of_offsets * known).sum() / known.sum().clamp(min=1)
        return DENSE_SCALE * loss, torch.stack(right)

    def forward(self, tensors: Tensors, with_language: bool = True) -> Losses:
        features = self.encode(tensors)
        dense, right = self.dense_loss(features, tensors)
        if not with_language:
            return Losses(dense.new_zeros(()), dense, tensors.answer_labels, right)
        visual_tokens, looks = self.resample(features, tensors)
        dense = dense + NAMING_SCALE * self.alignment_loss(visual_tokens, looks, tensors)
        logits = self.decode(visual_tokens, tensors).float()
        error = nn.functional.cross_entropy(
            logits, tensors.answer_labels, ignore_index=IGNORED, reduction="none"
        )
        weight = tensors.answer_weights
        language = (error * weight).sum() / weight.sum().clamp(min=1)
        return Losses(language, dense, logits.argmax(-1), right)


def _alignment_error(logits: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    error = nn.functional.log_softmax(NAME_SCALE * logits.float(), dim=-1) * named
    return -error.sum() / named.float().sum().clamp(min=1)


@torch.no_grad()
def initialise(
    model: MiniCPMVForConditionalGeneration, map_side: int, generator: torch.Generator
) -> None:
    """Random weights that learn soon.

    Matrices keep the scale of their input. Attention in the tower begins between patches that are
    near and alike (mimetic initialisation, arXiv 2305.09828), and the resampler's queries begin as
    a coarse map of the picture, `map_side` squared of them, and as columns: without that, a long
    plateau passes before attention finds out where to look.
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
    # Large enough beside what the first layers add to the residual stream.
    embedding = model.get_input_embeddings().weight
    embedding.normal_(0, 0.2, generator=generator)
    _initialise_tower(model, generator)
    _initialise_resampler(model, map_side, generator)


def _rotation(size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.empty(size, size).normal_(generator=generator)).Q


def _initialise_tower(model: MiniCPMVForConditionalGeneration, generator: torch.Generator) -> None:
    """Positions as sines and cosines, and queries equal to keys: near and alike patches attend."""
    tower = model.model.vision_tower
    side = tower.embeddings.table_side
    hidden_size = tower.config.hidden_size
    # Angles are counted in patches of a slice of the usual shape.
    place = torch.arange(side) * (model.config.image_size / tower.config.image_size)
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


# Where in its square of the map each head of a query looks first: (rows, columns) down and right.
_CORNERS = ((0, 0), (1, 1), (0, 1), (1, 0))
_WIDEST = 56  # patches in a row of the widest slices
_SHARPNESS = 8.0  # of the first attention: the next patch has an eighth of the weight


def _initialise_resampler(
    model: MiniCPMVForConditionalGeneration, map_side: int, generator: torch.Generator
) -> None:
    """Every head of a query starts at a place of its own; content has little weight.

    The first `map_side` squared queries are a map of a square slice. The others are the columns of
    a wide one, from left to right, whatever the row: there a line of print stands in its order.
    """
    config: MiniCPMVConfig = model.config
    resampler = model.model.resampler
    hidden_size = model.lm_head.in_features
    num_heads = resampler.attn.num_heads
    head_size = hidden_size // num_heads
    # A head compares the fastest sines and cosines of both axes; the slow ones tell nothing apart
    # within a slice. The code of a place is (columns: sines, cosines; rows: sines, cosines).
    quarter, kept = hidden_size // 4, head_size // 4
    chosen = torch.cat([torch.arange(kept) + part * quarter for part in range(4)])
    index = torch.arange(config.query_num)
    is_map = index < map_side**2
    pace = config.image_size / config.patch_size / map_side  # patches from query to query
    row, column = (index // map_side) * pace, (index % map_side) * pace
    step = _WIDEST / max(1, config.query_num - map_side**2)  # patches from column to column
    strip = (index - map_side**2) * step
    query, key, value = resampler.attn.in_proj_weight.chunk(3)
    query.zero_()
    key.zero_()
    for head in range(num_heads):
        area = torch.arange(head * head_size, (head + 1) * head_size)
        corner = _CORNERS[head % len(_CORNERS)]
        down, right = (pace / 2 - 1 + place for place in corner)
        across = torch.where(is_map, column + right, strip + step * head / num_heads)
        code = torch.cat(
            [sincos_positions(axis, hidden_size // 2) for axis in (across, row + down)], dim=-1
        )[:, chosen]
        code[:, 2 * kept :] *= is_map[:, None]
        resampler.query[:, area] = code
        key[area, chosen] = 1.0
        query[area, area] = _SHARPNESS
    value.normal_(0, hidden_size**-0.5, generator=generator)
    resampler.attn.out_proj.weight.normal_(0, hidden_size**-0.5, generator=generator)
    if isinstance(resampler.kv_proj, nn.Linear):
        width = resampler.kv_proj.weight.shape[1]
        resampler.kv_proj.weight.normal_(0, width**-0.5, generator=generator)
    resampler.ln_kv.weight.fill_(0.2)
    # Visual tokens of about the size of text embeddings.
    resampler.proj.normal_(0, 0.3 * hidden_size**-0.5, generator=generator)
