"""What an engine may use: memory for keys, values and features, requests at a time."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from ..devices import hardware_of
from ..errors import ArgumentError, short

# Of keys and values, if memory allows: sixteen conversations of 4,096 tokens, and as much as four
# of these remembered for later requests.
_RUNNING_TOKENS = 65_536
_IDLE_TOKENS = 16_384
_SHARE = 4  # of the free memory, one part
# Of a prompt between two tokens of the running answers: few for large decoders; for small ones as
# many as take no longer than a step of a large one.
_LEAST_PIECE, _MOST_PIECE = 256, 1024
_LARGE_DECODER = 100_000_000  # parameters


class QueueFullError(RuntimeError):
    """As many requests wait as may; nothing was done for this one."""


@dataclass(frozen=True)
class EngineLimits:
    """Limits of an engine; None: chosen from the model and the free memory of its device.

    Fields:
        cache_bytes: of keys and values in all, of running and remembered prompts. It is taken as
            it is needed.
        idle_bytes: of these, what no running request uses and later ones may start from.
        feature_bytes: of the features of pictures that are remembered.
        max_running: requests that are answered at a time; the others wait in order.
        max_waiting: requests beyond these that wait; one more is refused with `QueueFullError`.
            0: none waits.
        piece_tokens: of a prompt that are computed between two tokens of the running answers.
            None: 256, and up to 1,024 for decoders of less than 100 million parameters.
    """

    cache_bytes: int | None = None
    idle_bytes: int | None = None
    feature_bytes: int = 64 << 20
    max_running: int = 64
    max_waiting: int = 1024
    piece_tokens: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            least = int(field.name not in ("idle_bytes", "feature_bytes", "max_waiting"))
            if value is None and field.default is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ArgumentError(
                    f"`{field.name}` is {value!r}; it must be a whole number of at least {least}."
                )

    @staticmethod
    def checked(value: Any) -> "EngineLimits":
        """What was passed as `limits`; None means the defaults.

        Raises:
            ValueError: it is something else.
        """
        if value is not None and not isinstance(value, EngineLimits):
            raise ArgumentError(
                f"`limits` is {short(value)}; pass minicpmv.EngineLimits(...), or None."
            )
        return value or EngineLimits()

    def of_piece(self, num_parameters: int = _LARGE_DECODER) -> int:
        """`piece_tokens` of a decoder with so many parameters in its layers."""
        if self.piece_tokens is not None:
            return self.piece_tokens
        fitting = _LEAST_PIECE * _LARGE_DECODER // max(num_parameters, 1)
        return max(_LEAST_PIECE, min(fitting, _MOST_PIECE))

    def of_cache(self, token_bytes: int, context: int, device: torch.device) -> tuple[int, int]:
        """Bytes of the cache, and of these the most for prompts that no request uses.

        Args:
            token_bytes: keys and values of one token in all layers.
            context: of the model, in tokens: one request of this length fits in any case.
        """
        whole, idle = self.cache_bytes, self.idle_bytes
        free = hardware_of(device).free_bytes
        share = _RUNNING_TOKENS * token_bytes if free is None else free // _SHARE
        if whole is None:
            wanted = max(_RUNNING_TOKENS, context) * token_bytes
            whole = max(min(wanted, share), min(context, _RUNNING_TOKENS) * token_bytes)
        if idle is None:
            idle = min(_IDLE_TOKENS * token_bytes, share, whole)
        return whole, min(idle, whole)
