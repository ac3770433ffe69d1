"""Devices: which one is meant, and what it can compute and hold.

Everything else here that depends on a device asks `hardware_of` once and decides from the answer,
so that the decisions can be tested without the devices.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .errors import ArgumentError, first_line, short

KNOWN_DEVICES = "auto, cpu, cuda, cuda:N, mps"
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Hardware:
    """What a device can do.

    Fields:
        kind: "cpu", "cuda", "mps" ..., as in `torch.device.type`.
        name: for people.
        has_bfloat16, has_float16: it has instructions for products in this dtype.
        free_bytes: memory that a model may take; None where it was not asked.
    """

    kind: str
    name: str
    has_bfloat16: bool
    has_float16: bool
    free_bytes: int | None = None


def parse_device(device: Any) -> torch.device:
    """The device that is meant; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: there is no such device here, or none that holds numbers.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
        raise ValueError(
            f"device is {short(device, 60)}; expected a name or a torch.device. Known: "
            f"{KNOWN_DEVICES}."
        )
    try:
        named = torch.device(device)
    except RuntimeError as error:  # its text lists every kind of device that PyTorch ever knew
        raise ArgumentError(
            f"`device` {str(device)!r} is not available. Known: {KNOWN_DEVICES}."
        ) from error
    if named.type == "cpu" and named.index:
        raise ArgumentError(
            f"`device` {str(device)!r} is not available: there is one CPU device, cpu. Known: "
            f"{KNOWN_DEVICES}."
        )
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(
            f"Device {str(device)!r} is not available ({first_line(error)}). Known: "
            f"{KNOWN_DEVICES}."
        ) from error
    if place.type == "meta":
        raise ValueError(
            f"Device {str(device)!r} holds shapes and no numbers, so nothing can be computed on "
            f"it. Known: {KNOWN_DEVICES}."
        )
    return named


def check_device_map(device_map: Any) -> None:
    """Refuse an invalid `device_map`, and one that names a device that is not available.

    Args:
        device_map: a strategy of transformers, a device, or devices by the names of modules.

    Raises:
        ValueError: as above; the line names the place.
    """
    if isinstance(device_map, Mapping):
        if not device_map:
            raise ValueError('device_map is empty; {"": "cpu"} places everything on the CPU.')
        for module, place in device_map.items():
            if place != "disk":
                _check_place(place, f"device_map[{module!r}]")
    elif device_map not in STRATEGIES:
        _check_place(device_map, "device_map")


def main_device(device_map: Any) -> torch.device:
    """Where a model that is spread by `device_map` computes; a checked one.

    What waits on the CPU or the disk is brought to the accelerator, where there is one.
    """
    if not isinstance(device_map, Mapping):
        return parse_device("auto" if device_map in STRATEGIES else device_map)
    places = [parse_device(place) for place in device_map.values() if place != "disk"]
    return next((place for place in places if place.type != "cpu"), torch.device("cpu"))


def uses_disk(device_map: Any) -> bool:
    """Whether `device_map` leaves weights on the disk."""
    return isinstance(device_map, Mapping) and "disk" in device_map.values()


def check_tied_devices(model: Any) -> None:
    """Refuse a model whose head shares its matrix with embeddings on another device.

    Raises:
        ValueError: the two were placed apart, so one of them would be without numbers.
    """
    places = getattr(model, "hf_device_map", None)
    if not places or not model.config.get_text_config().tie_word_embeddings:
        return
    found = {}
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        name = next((name for name, other in model.named_modules() if other is module), None)
        if name is None:
            return
        found[name] = _place_of(name, places)
    (first, one), (second, other) = [*found.items()][:2] if len(found) > 1 else [("", 0)] * 2
    if one != other:
        raise ValueError(
            f"{first} ({one}) and {second} ({other}) are one tied matrix, and device_map places "
            "them on two devices. Give both the same device."
        )


def hardware_of(device: torch.device) -> Hardware:
    """What `device` can compute and hold."""
    kind = device.type
    if kind == "cpu":
        return Hardware("cpu", processor_name(), *_cpu_dtypes(), available_memory())
    if kind == "cuda":
        with torch.cuda.device(device):
            # Emulated products are slower than those in float16.
            has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
            return Hardware("cuda", torch.cuda.get_device_name(device), has_bfloat16, True)
    if kind == "mps":
        return Hardware("mps", "MPS", torch.backends.mps.is_macos_or_newer(14, 0), True)
    return Hardware(kind, kind, True, True)


@cache
def processor_name() -> str:
    """The name of this computer's processor, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Cores that this process may use; not every system says which these are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of(number: int) -> int:
    """Of each of so many processes that share the cores."""
    return max(1, num_cores() // number)


def available_memory() -> int | None:
    """Bytes that this process may still take without swapping; None where the system does not say.

    The limit of a container counts too.
    """
    import psutil

    free = [psutil.virtual_memory().available]
    for limit, used in (
        (_CGROUP / "memory.max", _CGROUP / "memory.current"),
        (_CGROUP / "memory/memory.limit_in_bytes", _CGROUP / "memory/memory.usage_in_bytes"),
    ):
        try:
            free.append(max(0, int(limit.read_text()) - int(used.read_text())))
        except (OSError, ValueError):
            continue  # no such group, or "max"
    return min(free)


def _cpu_dtypes() -> tuple[bool, bool]:
    """Whether products of bfloat16, and of float16, are more than conversions on this CPU.

    oneDNN's word counts, since it computes them: it obeys ONEDNN_MAX_CPU_ISA too.
    """
    if not torch.backends.mkldnn.is_available():
        return False, False
    operators = torch.ops.mkldnn
    return operators._is_mkldnn_bf16_supported(), operators._is_mkldnn_fp16_supported()


def _check_place(place: Any, name: str) -> None:
    try:
        parse_device(place)
    except ValueError as error:
        if "[" in name:
            raise ValueError(f"{name}: {error}") from error
        raise ArgumentError(
            f"`{name}` is {short(place)}, which is neither a strategy nor a device here. Known: "
            f"{', '.join(STRATEGIES)}; {KNOWN_DEVICES.removeprefix('auto, ')}."
        ) from error


def _place_of(name: str, places: Mapping[str, Any]) -> str:
    """The device of the longest entry that `name` lies in."""
    matching = [entry for entry in places if not entry or f"{name}.".startswith(f"{entry}.")]
    return str(places[max(matching, key=len)]) if matching else ""
