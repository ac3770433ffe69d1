"""The SigLIP tower and its resampler on a CPU, computed with kernels and the weights of the moment.

As `decoder.py` does it for the language model: modules that are the plain class of their kind are
not called, for calls, masks and tables of positions take a third of a small tower's time. Slices
have equally many patches, so that there is no padding and no mask.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..kernels import attention_of_tokens, dense_linear, gelu_tanh
from ..model.input_checks import check_slice_shapes, check_slice_sizes
from ..model.positions import grid_positions
from . import supported

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_MOST_TABLES = 32  # of sizes of pieces that were seen last


class PlainTower:
    """Features as `model.get_image_features` gives them, up to rounding."""

    @staticmethod
    def takes(model: Any) -> bool:
        """Whether a model has such a tower, and its weights are on the CPU."""
        return model.device.type == "cpu" and supported.has_siglip_tower(model)

    def __init__(self, model: Any):
        inner = supported.causal_model(model).model
        self._tower, self._resampler = inner.vision_tower, inner.resampler
        self._config = model.config.vision_config
        self._position_ids: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
        self._key_positions: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()

    def is_usable(self) -> bool:
        """Whether all modules are at the moment the plain ones of their kind."""
        return not torch.is_grad_enabled() and supported.is_plain_vision(
            self._tower, self._resampler
        )

    def encode(
        self, pixel_values: torch.Tensor, target_sizes: torch.Tensor, patches: int
    ) -> torch.Tensor:
        """
        Args:
            pixel_values: (num_slices, channels, patch_size, patch_size * patches).
            target_sizes: (num_slices, 2), each slice of `patches` patches.

        Returns:
            (num_slices, query_num, hidden).

        Raises:
            ValueError: the inputs disagree about the number of slices or patches.
        """
        check_slice_shapes(pixel_values, target_sizes, self._config)
        check_slice_sizes(pixel_values, target_sizes, self._config.patch_size)
        hidden = self._embedded(pixel_values, target_sizes, patches)
        for layer in self._tower.encoder.layers:
            modules = layer._modules
            hidden += self._attended(modules["self_attn"], _norm(modules["layer_norm1"], hidden))
            parts = modules["mlp"]._modules
            inner = _linear(parts["fc1"], _norm(modules["layer_norm2"], hidden))
            hidden += _linear(parts["fc2"], gelu_tanh(inner, out=inner))
        return self._resampled(_norm(self._tower.post_layernorm, hidden), target_sizes)

    def _embedded(
        self, pixel_values: torch.Tensor, target_sizes: torch.Tensor, patches: int
    ) -> torch.Tensor:
        embeddings = self._tower.embeddings
        convolution, table = embeddings.patch_embedding, embeddings.position_embedding.weight
        hidden = F.conv2d(
            pixel_values.to(convolution.weight.dtype),
            convolution.weight,
            convolution.bias,
            convolution.stride,
        )
        hidden = hidden.flatten(2).transpose(1, 2).contiguous()
        ids = _remembered(
            self._position_ids,
            target_sizes,
            lambda: embeddings.position_ids(target_sizes, patches).flatten(),
        )
        hidden.flatten(0, 1).add_(table.index_select(0, ids))
        return hidden

    def _attended(self, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        modules = attention._modules
        query, key, value = (_linear(modules[name], hidden) for name in _PROJECTIONS)
        found = attention_of_tokens(query, key, value, attention.head_dim, attention.scaling)
        return _linear(modules["out_proj"], found)

    def _resampled(self, patches: torch.Tensor, target_sizes: torch.Tensor) -> torch.Tensor:
        """As `MiniCPMVResampler.forward`; queries are projected once for all slices."""
        resampler = self._resampler
        modules, attention = resampler._modules, resampler.attn
        kv_proj = modules["kv_proj"]
        if type(kv_proj) is not nn.Identity:
            patches = _linear(kv_proj, patches)
        value = _norm(modules["ln_kv"], patches)  # (num_slices, patches, hidden)
        query = _norm(modules["ln_q"], resampler.query)
        _, num_patches, channels = value.shape
        key = value + _remembered(
            self._key_positions,
            target_sizes,
            lambda: grid_positions(target_sizes, num_patches, channels, value.dtype),
        )
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        head_dim = value.shape[-1] // attention.num_heads
        query, key, value = (
            dense_linear(x, weight, bias)
            for x, weight, bias in zip((query[None], key, value), weights, biases, strict=True)
        )
        query = query.expand(len(value), -1, -1)
        found = attention_of_tokens(query, key, value, head_dim, head_dim**-0.5)
        found = _linear(attention.out_proj, found)
        return dense_linear(_norm(modules["ln_post"], found), resampler.proj.t())


def _linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    parameters = module._parameters
    return dense_linear(x, parameters["weight"], parameters["bias"])


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    parameters = module._parameters
    return F.layer_norm(
        x, module.normalized_shape, parameters["weight"], parameters["bias"], module.eps
    )


def _remembered(
    tables: "OrderedDict[tuple[int, ...], torch.Tensor]", target_sizes: torch.Tensor, make: Any
) -> torch.Tensor:
    """What `make` gives for these sizes, kept for the next piece of the same ones."""
    key = tuple(target_sizes.flatten().tolist())
    found = tables.pop(key, None)
    if found is None:
        found = make()
        while len(tables) >= _MOST_TABLES:
            tables.popitem(last=False)
    tables[key] = found
    return found
