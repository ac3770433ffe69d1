"""Questions about drawn pictures: `minicpmv evaluate scenes`. Importing it needs no torch.

`tasks.py` holds the tasks, `samples.py` draws what is asked, `measures.py` scores, `runner.py`
asks.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benchmark import Score, evaluate, run, scores, table

__all__ = ["Score", "evaluate", "run", "scores", "table"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import benchmark

    return getattr(benchmark, name)
