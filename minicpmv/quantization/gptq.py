"""AutoGPTQ files, unpacked to dense weights while they are read.

Per linear layer of `out` x `in` weights, with `bits` bits each and groups of inputs:

    qweight  (in * bits / 32, out)      int32, the first of a word's inputs in its lowest bits
    qzeros   (groups, out * bits / 32)  int32, zero - 1, packed along the outputs
    scales   (groups, out)
    g_idx    (in,)                      int32, the group of each input

    weight[o, i] = scales[g_idx[i], o] * (q[i, o] - zero[g_idx[i], o])

No other library is needed; the model takes the memory of dense weights. Where optimum and gptqmodel
are installed, or a `quantization_config` is passed, transformers reads the file with them.
"""

from typing import Any

import torch
from transformers.utils import is_gptqmodel_available, is_optimum_available

from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import skeleton
from ..checkpoint.weights import WeightFiles
from .files import generation_config, linear_layers, own_config

PACKED = ("qweight", "qzeros", "scales", "g_idx")
_BITS = (2, 4, 8)


class GptqReader:
    """Reads an AutoGPTQ checkpoint as one of dense weights.

    Attributes:
        path, keywords: for the `from_pretrained` of transformers: no path, but the unpacked
            `state_dict`.
        missing, unexpected: tensors of the files, by which they are not a quantised model's.
    """

    path = None

    def __init__(self, model_class: Any, path: Any, keywords: dict[str, Any], written: Any):
        bits = written.get("bits")
        layout = written.get("checkpoint_format") or "gptq"
        if bits not in _BITS or layout != "gptq":
            raise ValueError(
                f"{str(path)!r} has GPTQ weights of {bits} bits in the layout {layout!r}; read are "
                f"{', '.join(map(str, _BITS))} bits in the layout 'gptq'. Install gptqmodel and "
                "optimum, and transformers reads others."
            )
        self.keywords = own_config(model_class, path, keywords)
        config = self.keywords["config"]
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # what is loaded has no packed weights any more
        checkpoint = Checkpoint.at(path, keywords)
        files = checkpoint.safetensors_files(written.get("model_file_base_name") or "model")
        with WeightFiles(files) as opened:
            tensors = {name: opened[name] for name in opened.shapes}
        dtype = _dtype(keywords, config, tensors)
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        for released in linear_layers(skeleton(model_class, config)).values():
            found = {part for part in PACKED if f"{released}.{part}" in tensors}
            if not found:
                continue
            absent = [f"{released}.{part}" for part in PACKED if part not in found]
            if absent:
                self.missing += absent
                continue
            parts = {part: tensors.pop(f"{released}.{part}") for part in PACKED}
            try:
                tensors[f"{released}.weight"] = unpack(**parts, bits=bits).to(dtype)
            except ValueError as error:
                raise ValueError(f"{released} in {str(path)!r}: {error}") from error
        suffixes = tuple(f".{part}" for part in PACKED)
        if not self.missing:
            self.unexpected = [name for name in tensors if name.endswith(suffixes)]
        self.keywords["state_dict"] = tensors
        if model_class.can_generate():
            self.keywords.setdefault("generation_config", generation_config(checkpoint, config))
        self._path = str(path)

    @staticmethod
    def is_elsewhere() -> bool:
        """Whether transformers can read these files by itself."""
        return is_optimum_available() and is_gptqmodel_available()

    def finish(self, model: Any) -> list[Any]:
        """Set the model's `name_or_path`, which loading from a `state_dict` leaves out."""
        model.name_or_path = model.config.name_or_path = self._path
        return []


def unpack(
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    g_idx: torch.Tensor,
    bits: int,
) -> torch.Tensor:
    """The dense weight, (out, in), float32.

    Raises:
        ValueError: the shapes do not belong together, or an input has no group.
    """
    per_word = 32 // bits
    inputs, outputs = qweight.shape[0] * per_word, qweight.shape[1]
    groups = scales.shape[0]
    expected = {
        "qzeros": (qzeros.shape, (groups, outputs // per_word)),
        "scales": (scales.shape, (groups, outputs)),
        "g_idx": (g_idx.shape, (inputs,)),
    }
    for name, (found, wanted) in expected.items():
        if tuple(found) != wanted:
            raise ValueError(f"{name} has shape {tuple(found)}, expected {wanted}.")
    if int(g_idx.min()) < 0 or int(g_idx.max()) >= groups:
        raise ValueError(
            f"g_idx has the groups {int(g_idx.min())} to {int(g_idx.max())}; scales has {groups}."
        )
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    mask = 2**bits - 1
    values = (qweight[:, None, :] >> shifts[:, None]) & mask  # (words, per_word, out)
    values = values.flatten(0, 1)  # (in, out)
    zeros = ((qzeros[:, :, None] >> shifts) & mask).flatten(1)  # (groups, out)
    zeros = (zeros + 1) & mask  # a zero of 0 is stored as all bits set
    places = g_idx.long()
    weight = scales.float()[places] * (values - zeros[places])
    return weight.t().contiguous()  # (out, in)


def _dtype(keywords: dict[str, Any], config: Any, tensors: dict[str, torch.Tensor]) -> torch.dtype:
    """The dtype that the model is loaded in, so that no second copy is needed to get there."""
    wanted = keywords.get("dtype", keywords.get("torch_dtype"))
    if wanted == "auto":
        wanted = config.dtype or next(t for t in tensors.values() if t.is_floating_point()).dtype
    wanted = getattr(torch, wanted) if isinstance(wanted, str) else wanted
    return wanted if isinstance(wanted, torch.dtype) else torch.get_default_dtype()
