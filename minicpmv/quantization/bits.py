"""bitsandbytes: NF4 and int8 weights, in released files and from full weights.

A released int4 file holds, for every quantised layer, `weight` (two numbers per byte) and beside
it `weight.absmax`, `weight.quant_map`, `weight.quant_state.bitsandbytes__nf4`, and with double
quantisation `weight.nested_absmax` and `weight.nested_quant_map`; int8 has `SCB`. Which layers are
quantised is read from the files: `llm_int8_skip_modules` in config.json names modules as the
released code had them, by rules that transformers has changed since.
"""

import importlib.util
import logging
import re
import warnings
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.core_model_loading import WeightConverter

from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import skeleton
from ..devices import STRATEGIES
from .files import check_experts, linear_layers, own_config

# Parts that stay as they are unless a config of the user's names others: all but the decoder
# layers, and of those the router of a mixture of experts. Any word of a module's name.
UNQUANTIZED = ("vpm", "vision_tower", "resampler", "lm_head", "score", "gate")
BLOCK = 64  # weights that share a scale
NEEDED = (".weight.absmax", ".weight.quant_map")
NESTED = (".weight.nested_absmax", ".weight.nested_quant_map")
STATES = (".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4")
INT8, OPTIONAL = ".SCB", ".weight_format"  # older files have only the first


def bits_config(quantize: str) -> BitsAndBytesConfig:
    """NF4 with double quantisation for "nf4" and "int4"; LLM.int8() for "llm.int8" and "int8".

    Raises:
        ValueError: `quantize` is none of them.
    """
    if quantize in ("nf4", "int4"):
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
    if quantize in ("llm.int8", "int8"):
        return BitsAndBytesConfig(load_in_8bit=True)
    raise ValueError(f"quantize is {quantize!r}; known: 'nf4', 'llm.int8', 'int4', 'int8'.")


class BitsReader:
    """Reads a bitsandbytes checkpoint, or quantises full weights while they are read.

    Attributes:
        path, keywords: for the `from_pretrained` of transformers.
        missing, unexpected: tensors of the files, by which they are not a quantised model's.
    """

    def __init__(
        self, model_class: Any, path: Any, keywords: dict[str, Any], written: dict[str, Any] | None
    ):
        _import_bitsandbytes()
        self.path = path
        self.keywords = own_config(model_class, path, keywords)
        config = self.keywords["config"]
        _check_devices(keywords.get("device_map"))
        self._skeleton = skeleton(model_class, config)
        layers = linear_layers(self._skeleton)
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self._is_written = written is not None
        if written is None:
            self._quantization = BitsAndBytesConfig.from_dict(
                keywords["quantization_config"].to_dict()
            )
            self._quantization.llm_int8_skip_modules = _named(self._quantization, layers)
            dense = _matching(self._quantization.llm_int8_skip_modules, layers)
            dense += self._odd_layers(layers, dense)
            self.keywords["quantization_config"] = self._quantization
        else:
            self._quantization = BitsAndBytesConfig.from_dict(written)
            names = Checkpoint.at(path, keywords).tensor_names()
            dense = self._check(layers, names)
        self._listed = self._quantization.llm_int8_skip_modules
        # One expression, which both rules of transformers 5.19 and 5.23 read alike.
        pattern = rf"(?:{'|'.join(map(re.escape, dense)) or 'none'})(?:\.|$)"
        self._quantization.llm_int8_skip_modules = [pattern]
        if written is not None:
            config.quantization_config = self._quantization.to_dict()

    def _odd_layers(self, layers: dict[str, str], dense: list[str]) -> list[str]:
        """Layers that stay dense for their size: bitsandbytes' CPU code misreads int4 rows that end
        inside a block.

        Raises:
            ValueError: nothing would be quantised, or not what takes the memory.
        """
        check_experts(self._skeleton)
        if not self._quantization.load_in_4bit:
            return []
        model: Any = self._skeleton
        sizes = {
            name: model.get_submodule(name).in_features for name in layers if name not in dense
        }
        odd = [name for name, size in sizes.items() if size % BLOCK]
        if odd and len(odd) == len(sizes):
            raise ValueError(
                f"No layer can be quantised to int4: their inputs ({layers[odd[0]]}: "
                f"{sizes[odd[0]]}) are no multiple of {BLOCK}. Use int8, or the full weights."
            )
        if odd:
            warnings.warn(
                f"{len(odd)} of {len(sizes)} layers keep their full weights, because their inputs "
                f"are no multiple of {BLOCK}: {layers[odd[0]]} has {sizes[odd[0]]}.",
                stacklevel=2,
            )
        return odd

    def _check(self, layers: dict[str, str], names: set[str]) -> list[str]:
        """The layers that the files hold in full; notes what is missing or too much beside others.

        Only what stands beside weights is looked at; weights are the business of transformers.
        """
        is_int4 = self._quantization.load_in_4bit
        beside = (*NEEDED, *NESTED, *STATES) if is_int4 else (INT8, OPTIONAL)
        found = {name for name in names if name.endswith(beside)}
        is_nested = any(name.endswith(NESTED) for name in found)
        dense = []
        for layer, released in layers.items():
            its_own = {released + suffix for suffix in beside} & found
            if not its_own:
                dense.append(layer)
                continue
            found -= its_own
            needed = {released + suffix for suffix in (NEEDED if is_int4 else (INT8,))}
            if is_int4 and is_nested:
                needed |= {released + suffix for suffix in NESTED}
            if is_int4 and not its_own & {released + suffix for suffix in STATES}:
                needed.add(f"{released}.weight.quant_state.bitsandbytes__nf4")
            needed.add(f"{released}.weight")
            self.missing += sorted(needed - names)
        self.unexpected = sorted(found)
        return dense

    def finish(self, model: Any) -> list[tuple[str, torch.Size, torch.Size]]:
        """Settle what transformers leaves open in a loaded model.

        The layers compute in the model's dtype, unless a config of the user's says otherwise; the
        config gets back the list of its file.

        Returns:
            Parameters of another shape than the model's: name, found, expected.
        """
        for parameter in model.parameters():
            # Of a quantised file transformers casts the biases alone.
            if parameter.is_floating_point() and not hasattr(parameter, "quant_state"):
                parameter.data = parameter.data.to(model.config.dtype)
        quantization = model.config.quantization_config
        quantization.llm_int8_skip_modules = self._listed
        compute_dtype = quantization.bnb_4bit_compute_dtype
        if self._is_written or compute_dtype == torch.float32:
            compute_dtype = model.dtype
        if quantization.load_in_4bit and not self._is_written:
            quantization.bnb_4bit_compute_dtype = compute_dtype
        # Saving turns the conversions round, and these cannot be: the layers write their own
        # tensors.
        model._weight_conversions = [
            conversion
            for conversion in model._weight_conversions
            if not any("Bnb" in type(step).__name__ for step in _steps(conversion))
        ]
        expected = {name: p.shape for name, p in self._skeleton.state_dict().items()}
        mismatched = []
        for name, parameter in model.named_parameters():
            state = getattr(parameter, "quant_state", None)
            shape = parameter.shape if state is None else state.shape
            if shape != expected[name]:
                mismatched.append((name, shape, expected[name]))
        for name, module in list(model.named_modules()):
            if type(module).__name__ == "Linear4bit":
                if module.in_features % module.weight.blocksize:
                    model.set_submodule(name, _unpacked(module, model.dtype))
                    continue
                module.compute_dtype = compute_dtype
                module.compute_type_is_set = True
                # On CPUs with AVX512-BF16, bitsandbytes repacks the weights at the first call to
                # compute in bfloat16 whatever the dtype, and can do so for multiples of 32 only.
                if compute_dtype != torch.bfloat16 or module.out_features % 32:
                    module.support_avx512bf16_for_cpu = False
        return mismatched


def _unpacked(layer: Any, dtype: torch.dtype) -> nn.Linear:
    """The dense layer of an int4 one."""
    state = layer.weight.quant_state
    scales = state.absmax.float()
    if state.nested:
        nested = state.state2.absmax.repeat_interleave(state.state2.blocksize)[: len(scales)]
        scales = state.state2.code[state.absmax.long()] * nested + state.offset
    packed = layer.weight.data.view(torch.uint8).flatten()
    values = state.code[torch.stack([packed >> 4, packed & 15], dim=1).flatten().int()]
    weight = values * scales.repeat_interleave(state.blocksize)[: len(values)]
    dense = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta")
    dense.weight = nn.Parameter(weight.view(state.shape).to(dtype), requires_grad=False)
    if layer.bias is not None:
        dense.bias = layer.bias
    return dense.train(layer.training)


def _steps(conversion: Any) -> list[Any]:
    return conversion.operations if isinstance(conversion, WeightConverter) else []


def quantised_layers(model: Any, quantize: str) -> list[nn.Linear]:
    """The layers of a model of full weights that `quantize` would take."""
    layers = linear_layers(model)
    dense = _matching(_named(bits_config(quantize), layers), layers)
    taken = [model.get_submodule(name) for name in layers if name not in dense]
    return [
        layer
        for layer in taken
        if quantize in ("llm.int8", "int8") or layer.in_features % BLOCK == 0
    ]


class Skipped(NamedTuple):
    """Parts of a model that stay as they are: entries for a config, and our names of layers."""

    entries: list[str]
    layers: list[str]


def skipped_parts(layers: dict[str, str]) -> Skipped:
    """What released int4 files leave in full, of `linear_layers` of a model."""
    entries = [entry for entry in UNQUANTIZED if _matching([entry], layers)]
    return Skipped(entries, _matching(entries, layers))


def pack(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a layer in a released int4 file, by what follows "weight" in their names.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    _import_bitsandbytes()
    from bitsandbytes.functional import quantize_4bit

    data, state = quantize_4bit(
        weight.contiguous(), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
    )
    beside = {f".{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    return {"": data} | beside


def check_unpacked(model: nn.Module) -> None:
    """Refuse to save weights that bitsandbytes has repacked for this CPU.

    Raises:
        ValueError: they were repacked; the way back is not exact.
    """
    for name, parameter in model.named_parameters():
        if getattr(getattr(parameter, "quant_state", None), "packing_format_for_cpu", False):
            raise ValueError(
                f"bitsandbytes has repacked {name} for this CPU and rounded its scales, so saving "
                "would change the weights. Load the model again and save it before the first "
                "answer, or load it with dtype='float32'."
            )


def _named(quantization: BitsAndBytesConfig, layers: dict[str, str]) -> list[str]:
    """The skip list to write down: the user's, else the parts of this model that stay as they
    are."""
    if quantization.llm_int8_skip_modules is not None:
        return list(quantization.llm_int8_skip_modules)
    released = {name: name for name in layers.values()}
    return [entry for entry in UNQUANTIZED if _matching([entry], released)]


def _matching(entries: list[str], layers: dict[str, str]) -> list[str]:
    """Layers in whose released name or ours an entry stands, as whole words between dots."""
    if not entries:
        return []
    pattern = re.compile(rf"(?:^|\.)(?:{'|'.join(entries)})(?:\.|$)")
    return [
        name
        for name, released in layers.items()
        if pattern.search(name) or pattern.search(released)
    ]


def _import_bitsandbytes() -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError(
            'int4 and int8 weights need bitsandbytes: pip install "minicpmv[int4]" (or load the '
            "full weights)."
        )
    # Their notes about faster kernels and about casts come at every call, on stderr.
    for name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


def _check_devices(device_map: Any) -> None:
    """Name a device that this version of bitsandbytes does not know."""
    bitsandbytes = _import_bitsandbytes()
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    for place in places:
        if isinstance(place, torch.device | str) and place not in (*STRATEGIES, "disk"):
            kind = torch.device(place).type
            known = bitsandbytes.supported_torch_devices
            if kind not in known:
                raise ValueError(
                    f"bitsandbytes {bitsandbytes.__version__} does not run on {kind!r}; it knows "
                    f"{', '.join(sorted(known))}. Install a newer one, or load the full weights."
                )
