"""Widened products: the numbers of float32, rounded; nothing else of the model changes."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minicpmv import Chat, load
from minicpmv.engine import widen as widen_module
from minicpmv.engine.widen import MIN_ROWS, WidenedProducts, widen

EXAMPLE = Path(__file__).parents[2] / "examples" / "scene.png"
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[torch.dtype]]:
    """The dtypes of the matrices that oneDNN and its like are given."""
    seen: set[torch.dtype] = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            heavy = ("linear", "addmm", "mm", "bmm", "conv", "scaled_dot_product")
            if func._schema.name.partition("::")[2].lstrip("_").startswith(heavy):
                seen.update(x.dtype for x in args if isinstance(x, torch.Tensor) and x.ndim > 1)
            return func(*args, **(kwargs or {}))

    with Watch():
        yield seen


def numbers(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_a_product_is_that_of_float32_rounded_once(
    dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widen_module, "BLOCK", block)
    x, weight, bias = (numbers(*s, dtype=dtype) for s in ((2, 3, 16), (24, 16), (24,)))
    with WidenedProducts():
        found = F.linear(x, weight, bias), x @ weight.t(), F.linear(x, weight)
    exact = F.linear(x.float(), weight.float(), bias.float())
    torch.testing.assert_close(found[0], exact.to(dtype))
    torch.testing.assert_close(found[1], F.linear(x.float(), weight.float()).to(dtype))
    assert torch.equal(found[1], found[2])


@pytest.mark.parametrize("dtype", HALVES)
def test_attention_and_patches_are_those_of_float32(dtype: torch.dtype) -> None:
    query, key = numbers(1, 4, 9, 8, dtype=dtype), numbers(1, 2, 9, 8, dtype=dtype)
    mask = numbers(1, 1, 9, 9, dtype=dtype)
    pixels, filters = numbers(2, 3, 14, 28, dtype=dtype), numbers(5, 3, 14, 14, dtype=dtype)
    with WidenedProducts():
        attended = F.scaled_dot_product_attention(query, key, key, mask, enable_gqa=True)
        patches = F.conv2d(pixels, filters, stride=14)
        scores = query @ query.transpose(-1, -2)
    expected = F.scaled_dot_product_attention(
        query.float(), key.float(), key.float(), mask.float(), enable_gqa=True
    )
    torch.testing.assert_close(attended, expected.to(dtype))
    expected = F.conv2d(pixels.float(), filters.float(), stride=14)
    torch.testing.assert_close(patches, expected.to(dtype))
    expected = query.float() @ query.float().transpose(-1, -2)
    torch.testing.assert_close(scores, expected.to(dtype))


def test_few_rows_and_training_stay_as_they_are(products: set[torch.dtype]) -> None:
    layer = nn.Linear(16, 16, dtype=torch.bfloat16)
    with WidenedProducts():
        with torch.no_grad():
            layer(numbers(MIN_ROWS - 1, 16, dtype=torch.bfloat16))
        assert products == {torch.bfloat16}
        layer(numbers(64, 16, dtype=torch.bfloat16)).sum().backward()
        assert products == {torch.bfloat16}
        with torch.no_grad():
            layer(numbers(64, 16, dtype=torch.bfloat16))
    assert products == {torch.bfloat16, torch.float32}


@pytest.fixture(scope="module")
def chats() -> tuple[Chat, Chat]:
    """nano in bfloat16: as it is, and widened."""
    chats = tuple(load("nano", device="cpu", dtype="bfloat16") for _ in range(2))
    for name in ("forward", "get_image_features"):
        vars(chats[0].model).pop(name, None)
    widen(chats[1].model)
    return chats[0], chats[1]


def test_a_widened_model_gives_the_same_answer(
    chats: tuple[Chat, Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Chat] = []
    linear = widen_module._PRODUCTS[F.linear]

    def count(*args: Any, **kwargs: Any) -> Any:
        calls.append(asked)
        return linear(*args, **kwargs)

    monkeypatch.setitem(widen_module._PRODUCTS, F.linear, count)
    answers = []
    for asked in chats:
        answers.append(asked.ask("What colour is the star?", [EXAMPLE], sampling=False))
    assert answers[0].text == answers[1].text
    assert set(calls) == {chats[1]}


def test_a_widened_model_is_as_close_to_float32_as_its_dtype(chats: tuple[Chat, Chat]) -> None:
    exact = copy.deepcopy(chats[0].model).float()
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        wide, plain, expected = (
            model(input_ids=ids).logits.float() for model in (chats[1].model, chats[0].model, exact)
        )
    spread = expected.std()
    assert (wide - expected).abs().mean() / spread < 0.02
    assert (wide - expected).abs().mean() <= 1.1 * (plain - expected).abs().mean()


def test_nothing_of_it_is_saved(chats: tuple[Chat, Chat], tmp_path: Path) -> None:
    plain, widened = chats
    assert plain.model.state_dict().keys() == widened.model.state_dict().keys()
    for chat, name in ((plain, "plain"), (widened, "widened")):
        chat.model.save_pretrained(tmp_path / name)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "plain" / file).read_bytes() == (
            tmp_path / "widened" / file
        ).read_bytes()


def test_a_copy_is_widened_by_itself(chats: tuple[Chat, Chat]) -> None:
    model = copy.deepcopy(chats[1].model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert not model(input_ids=torch.arange(5, 10)[None]).logits.any()
    assert chats[1].model(input_ids=torch.arange(5, 10)[None]).logits.any()


def test_a_widened_model_can_be_trained(chats: tuple[Chat, Chat]) -> None:
    ids = torch.arange(5, 25)[None]
    losses = []
    for chat in chats:
        model = copy.deepcopy(chat.model).train()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        assert all(p.grad is not None for p in model.model.language_model.layers.parameters())
    assert losses[0] == losses[1]
