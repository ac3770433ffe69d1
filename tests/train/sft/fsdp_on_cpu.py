"""The command line, with FSDP on processors: accelerate and our check leave it to graphics cards,
and PyTorch spreads weights over processes of either."""

import os
import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from minicpmv.cli import main
from minicpmv.train.sft import tuning

_plain = AcceleratorState.__init__


def _spread(
    self: Any, mixed_precision: Any = None, *rest: Any, fsdp_plugin: Any = None, **options: Any
) -> None:
    _plain(self, mixed_precision, *rest, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is None or self.distributed_type != DistributedType.MULTI_CPU:
        return
    self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    if self._mixed_precision != "no":
        fsdp_plugin.set_mixed_precision(self._mixed_precision)
    self.fsdp_plugin = fsdp_plugin


if __name__ == "__main__":
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    AcceleratorState.__init__ = _spread  # type: ignore[method-assign]
    tuning.check_spread_device = lambda deepspeed, device_type: None
    sys.exit(main(sys.argv[1:]))
