"""The processes that train together: one, or those that torchrun started."""

import os
from collections import defaultdict
from typing import Any

import torch
from torch import distributed


class Processes:
    """This process among those that train one model."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        if self.count > 1:
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")

    def average(self, parameters: list[torch.Tensor]) -> None:
        """Replace the gradients by their mean over all processes; one message per dtype."""
        if self.count == 1:
            return
        gradients: dict[torch.dtype, list[torch.Tensor]] = defaultdict(list)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients[parameter.grad.dtype].append(parameter.grad)
        for parts in gradients.values():
            flat = torch.cat([part.flatten() for part in parts])
            distributed.all_reduce(flat)
            flat /= self.count
            for part, mean in zip(parts, flat.split([p.numel() for p in parts]), strict=True):
                part.copy_(mean.view_as(part))

    def wait(self) -> None:
        """Let all processes reach this place."""
        if self.count > 1:
            distributed.barrier()

    def agree(self, value: Any) -> Any:
        """The value of the first process."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def close(self) -> None:
        """Leave the group."""
        if self.count > 1:
            distributed.destroy_process_group()
