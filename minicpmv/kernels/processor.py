"""What the processor is: its name, and the instruction sets that compiled code may use."""

import ctypes
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_AT_HWCAP, _AT_HWCAP2 = 16, 26  # of getauxval(3)
_SYSCTL = ("machdep.cpu.brand_string", "machdep.cpu.features", "machdep.cpu.leaf7_features")


@cache
def processor_name() -> str:
    """For people."""
    if sys.platform == "darwin":
        return _sysctl()[0] or platform.machine()
    return _cpuinfo().get("model name", "") or platform.machine()


@cache
def fingerprint() -> str:
    """Equal only on processors that run the same instructions: the machine's kind and its sets."""
    parts = [sys.platform, platform.machine(), processor_name()]
    if sys.platform == "darwin":
        parts += _sysctl()
    else:
        parts += sorted(instruction_sets())
        parts += [str(number) for number in _hardware_capabilities()]
    return "\n".join(parts)


@cache
def instruction_sets() -> frozenset[str]:
    """The sets of an x86 processor in Linux' names, "avx2" ...; empty where they are not told."""
    return frozenset(_cpuinfo().get("flags", "").split())


@cache
def vendor() -> str:
    """Of an x86 processor in Linux' words, "AuthenticAMD" ...; empty where it is not told."""
    return _cpuinfo().get("vendor_id", "")


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; the file of a large server is long."""
    fields = {}
    try:
        with CPUINFO.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():
                    break
                name, _, value = line.partition(":")
                fields[name.strip()] = value.strip()
    except OSError:
        return {}
    return fields


def _hardware_capabilities() -> list[int]:
    """What the kernel says all cores have; on ARM, where cores differ, the only safe source."""
    if not sys.platform.startswith("linux"):
        return []
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return [getauxval(_AT_HWCAP), getauxval(_AT_HWCAP2)]


@cache
def _sysctl() -> list[str]:
    result = subprocess.run(["sysctl", "-n", *_SYSCTL], capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    return [*lines, *[""] * (len(_SYSCTL) - len(lines))]
