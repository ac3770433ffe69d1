"""`--judge`: which judge a word, an address or a model's name means."""

import os
from collections.abc import Callable
from typing import Any

from minicpmv.errors import ArgumentError
from minicpmv.evaluate.judges.function import FunctionJudge
from minicpmv.evaluate.judges.protocol import Judge

EXACT = "exact"  # nobody: what the rules cannot read stays unparsed
KEYS = ("MINICPMV_JUDGE_KEY", "OPENAI_API_KEY")  # of the environment, in this order


def make_judge(
    judge: "str | Judge | Callable[[str, float], str | None]" = EXACT,
    *,
    model: str = "",
    api_key: str | None = None,
    timeout_s: float = 120.0,
    concurrency: int = 8,
    batch_size: int = 32,
    load: Callable[[str], Any] | None = None,
) -> Judge | None:
    """The judge that is meant; None where nobody judges.

    Args:
        judge: "exact"; the address of a server; a model that `load` takes; a function of a prompt
            and a temperature; or a judge.
        model: its name at the server.
        api_key: of the server; None: from the environment, MINICPMV_JUDGE_KEY or OPENAI_API_KEY.
        timeout_s, concurrency: of a server.
        batch_size: of a model.
        load: gives the `Chat` of a model's name; None: `minicpmv.load`.

    Raises:
        ArgumentError: the address is none, or `model` has no effect.
        OSError: the server cannot be reached, or the model is not there.
    """
    if not isinstance(judge, str):
        return FunctionJudge(judge) if callable(judge) else judge
    if judge.startswith(("http://", "https://")):
        from minicpmv.evaluate.judges.server import ServerJudge

        key = api_key or next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        return ServerJudge(judge, model, api_key=key, timeout_s=timeout_s, concurrency=concurrency)
    if model:
        raise ArgumentError("`judge_model` would have no effect: `judge` is no address.")
    if judge == EXACT:
        return None
    from minicpmv.evaluate.judges.model import ModelJudge  # torch, only when it is needed
    from minicpmv.loader import load as load_model

    return ModelJudge((load or load_model)(judge), batch_size)
