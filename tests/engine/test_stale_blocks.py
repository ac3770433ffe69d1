"""What an earlier request left in a block, be it no number, reaches no later one."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from minicpmv import Chat
from minicpmv.kernels import library, ops

from ..helpers.chats import loaded

GREEDY = {"sampling": False, "num_beams": 1, "max_new_tokens": 9}


@pytest.mark.parametrize("kernels", ["compiled", "torch"])
@pytest.mark.parametrize("name", ["2.6", "minicpm-2b"])
def test_blocks_may_hold_anything_where_nothing_was_written(
    name: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "compiled" and library() is None:
        pytest.skip("there is no compiler")
    if kernels == "torch":
        monkeypatch.setattr(ops, "_compiled", lambda: None)
    chat = Chat(loaded(name).model, loaded(name).processor)
    questions = ["Hi", "What is it, and why?", "Name three of them, please, and no more."]

    def ask(question: str) -> Any:
        return chat.ask(question, prompt_lookup_num_tokens=3, **GREEDY)

    with ThreadPoolExecutor(3) as threads:
        first = list(threads.map(ask, questions))
        runtime = chat.engine._runtime
        assert runtime is not None
        runtime.cache.clear()
        for tensor in (*runtime.cache.store.keys, *runtime.cache.store.values):
            assert len(tensor)
            tensor.fill_(torch.nan)
        assert list(threads.map(ask, questions)) == first
    chat.engine.close()
