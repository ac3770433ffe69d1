"""All kinds of cases in one place: `replay` repeats a case of any of them."""

from . import conversation, tables, text_answers, text_training, tokenizers  # noqa: F401
from .comparison import Comparison
from .recording import Case
from .replayer import REPLAYS


def replay(case: Case) -> Comparison:
    """Repeat one case.

    Raises:
        LookupError: nothing here repeats cases of its kind.
    """
    if case.kind not in REPLAYS:
        raise LookupError(f"{case.id}: nothing replays cases of the kind {case.kind!r}.")
    return REPLAYS[case.kind](case).run()
