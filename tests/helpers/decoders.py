"""Small models of all classes that the decoder knows, and its logits against theirs."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
)

import minicpmv.auto  # noqa: F401
from minicpmv.engine.attention import MAX_ROWS, Span
from minicpmv.engine.block_store import BLOCK, BlockStore
from minicpmv.engine.decoder import Decoder
from minicpmv.model.configuration_minicpm import MiniCPMConfig

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SCALES = {"scale_emb": 3, "scale_depth": 1.4, "dim_model_base": 16}
STRETCHED = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
FACTORS = {"short_factor": [1.1] * 8, "long_factor": [4.0] * 8}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SMALL),
    "llama-wide-heads": lambda: LlamaConfig(**SMALL, head_dim=64, attention_bias=True),
    "llama-one-kv-head": lambda: LlamaConfig(**SMALL | {"num_key_value_heads": 1}, mlp_bias=True),
    "llama-tied": lambda: LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama-gelu": lambda: LlamaConfig(**SMALL, hidden_act="gelu"),
    "llama-dynamic": lambda: LlamaConfig(**SMALL, rope_parameters=STRETCHED),
    "qwen2": lambda: Qwen2Config(**SMALL),
    "qwen2-window": lambda: Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=7, max_window_layers=1
    ),
    "mistral": lambda: MistralConfig(**SMALL, sliding_window=None),
    "mistral-window": lambda: MistralConfig(**SMALL, sliding_window=37),
    "mixtral": lambda: MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "mixtral-window": lambda: MixtralConfig(**SMALL, num_local_experts=4, sliding_window=5),
    "minicpm": lambda: MiniCPMConfig(**SMALL, **SCALES),
    "minicpm-experts": lambda: MiniCPMConfig(
        **SMALL,
        scale_emb=3,
        scale_depth=1.4,
        dim_model_base=16,
        num_experts=4,
        num_experts_per_tok=2,
    ),
    "minicpm-dynamic": lambda: MiniCPMConfig(**SMALL, rope_parameters=STRETCHED),
    "minicpm-longrope": lambda: MiniCPMConfig(
        **SMALL,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 256,
            "factor": 2.0,
            **FACTORS,
        },
    ),
}


def small(name: str, seed: int = 0) -> Any:
    """A random model that every part moves the logits of."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


class Sequences:
    """Sequences in one store, and what the model says of each alone."""

    def __init__(self, model: Any, lengths: list[int], seed: int = 0):
        self.decoder = Decoder(model)
        generator = torch.Generator().manual_seed(seed)
        self.ids = [torch.randint(3, 90, (length,), generator=generator) for length in lengths]
        with torch.inference_mode():
            self.wanted = [model(input_ids=ids[None]).logits[0].float() for ids in self.ids]
        counts = [-(-length // BLOCK) for length in lengths]
        order = torch.randperm(sum(counts), generator=generator).split(counts)
        self.tables = [blocks.tolist() for blocks in order]
        decoder = self.decoder
        shape = (decoder.num_layers, decoder.num_kv_heads, decoder.head_dim)
        self.store = BlockStore(*shape, decoder.dtype, decoder.device, sum(counts))
        for part in (*self.store.keys, *self.store.values):
            part.fill_(torch.nan)  # what is not written is not read
        self.done = [0] * len(lengths)

    def step(self, *pieces: tuple[int, int], keep: list[int] | None = None) -> list[torch.Tensor]:
        """The next tokens of some sequences, pairs of number and length."""
        spans = [
            Span(self.done[one], length, self.tables[one], is_prompt=length > 1)
            for one, length in pieces
        ]
        places = [slice(self.done[one], self.done[one] + length) for one, length in pieces]
        ids = torch.cat([self.ids[one][p] for (one, _), p in zip(pieces, places, strict=True)])
        kept = range(len(ids)) if keep is None else keep
        logits = self.decoder.forward(self.decoder.embed(ids), spans, self.store, kept)
        assert logits.dtype == torch.float32
        for one, length in pieces:
            self.done[one] += length
        if keep is not None:
            return [logits]
        return list(logits.split([length for _, length in pieces]))

    def check(self, *pieces: tuple[int, int], tolerance: float = 3e-5) -> None:
        starts = [self.done[one] for one, _ in pieces]
        for (one, length), start, logits in zip(pieces, starts, self.step(*pieces), strict=True):
            expected = self.wanted[one][start : start + length]
            error = (logits - expected).abs().max() / self.wanted[one].std()
            assert error < tolerance, f"sequence {one} at {start}: {error}"


def check_all_ways(model: Any, tolerance: float = 3e-5, seed: int = 0) -> None:
    whole = Sequences(model, [70], seed)
    whole.check((0, 70), tolerance=tolerance)
    chunks = Sequences(model, [150], seed)
    for length in (1, MAX_ROWS, 33, 2, MAX_ROWS + 1, 60, 1, 1, 31, 4):
        chunks.check((0, length), tolerance=tolerance)
    mixed = Sequences(model, [40, 90, 33, 71], seed)
    mixed.check((0, 38), tolerance=tolerance)
    mixed.check((1, 9), (0, 1), (2, 32), tolerance=tolerance)
    mixed.check((2, 1), (1, 50), (3, 5), (0, 1), tolerance=tolerance)
    mixed.check((3, 64), (1, 30), tolerance=tolerance)
    mixed.check((3, 1), (1, 1), tolerance=tolerance)
    mixed.check((3, 1), tolerance=tolerance)
