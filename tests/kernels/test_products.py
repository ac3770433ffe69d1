"""Products by oneDNN are those of PyTorch's own choice."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from minicpmv import kernels
from minicpmv.kernels import dense_linear, products


@pytest.fixture(autouse=True, params=["EPYC of Zen 5", "other processors"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """oneDNN computes on every processor; which one is faster is a matter of the machine."""
    chosen = request.param == "EPYC of Zen 5"
    monkeypatch.setattr(products, "vendor", lambda: "AuthenticAMD" if chosen else "other")
    monkeypatch.setattr(products, "instruction_sets", lambda: {"avx512f"} if chosen else set())
    products.prefers_onednn.cache_clear()
    yield request.param
    products.prefers_onednn.cache_clear()


@pytest.mark.parametrize("shape", [(7, 48), (2, 5, 48), (1, 48), (0, 48), (3, 4, 5, 48)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
@torch.inference_mode()
def test_products_are_those_of_torch(shape: tuple[int, ...], has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator) for s in (shape, (40, 48), (40,)))
    given = bias if has_bias else None
    for own in (weight, weight.t().contiguous().t()):  # also as a transposed view
        torch.testing.assert_close(
            dense_linear(x, own, given), F.linear(x, weight, given), atol=1e-5, rtol=1e-5
        )


@torch.inference_mode()
def test_strided_rows_are_read_where_they_are() -> None:
    x, weight = torch.randn(9, 96)[:, ::2], torch.randn(40, 48)
    torch.testing.assert_close(dense_linear(x, weight), F.linear(x, weight), atol=1e-5, rtol=1e-5)
    part = torch.randn(120, 48)[40:80]
    torch.testing.assert_close(dense_linear(x, part), F.linear(x, part), atol=1e-5, rtol=1e-5)


def test_gradients_are_recorded() -> None:
    x, weight = torch.randn(9, 48), torch.randn(40, 48, requires_grad=True)
    dense_linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(dim=0).expand(40, 48))


@torch.inference_mode()
def test_it_is_used_where_it_is_faster(processor: str) -> None:
    assert products.prefers_onednn(torch.float32, False) == (processor == "EPYC of Zen 5")
    assert not products.prefers_onednn(torch.float16, True)


@torch.inference_mode()
def test_other_products_are_those_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who watches PyTorch's function sees them."""
    seen = []
    monkeypatch.setattr(F, "linear", lambda x, *_: seen.append(x.dtype))
    dense_linear(torch.ones(9, 48, dtype=torch.float16), torch.ones(40, 48, dtype=torch.float16))
    assert seen == [torch.float16]


@pytest.fixture(scope="module")
def library() -> kernels.Library:
    found = kernels.library()
    if found is None or "avx512f" not in found.target:
        pytest.skip("no compiled kernels for AVX-512")
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48, 40), (3, 74, 8), (5, 160, 4), (12, 384, 1816)], ids=str)
@torch.inference_mode()
def test_few_rows_are_those_of_torch(
    library: kernels.Library, shape: tuple[int, int, int], has_bias: bool, dtype: torch.dtype
) -> None:
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(s, generator=generator).to(dtype)
        for s in ((rows, 2 * inputs), (2 * outputs, inputs), (outputs,))
    )
    x, weight = x[:, inputs:], weight[::2]  # parts of wider tensors
    found = products.few_rows_linear(x, weight, bias if has_bias else None)
    expected = F.linear(x.double(), weight.double(), bias.double() if has_bias else None)
    tolerance = 1e-4 if dtype == torch.float32 else 2**-7
    assert found is not None
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=tolerance)
    for row in range(rows):  # each by itself, to the last bit
        alone = products.few_rows_linear(x[row : row + 1], weight, bias if has_bias else None)
        assert alone is not None
        assert torch.equal(alone[0], found[row])


@torch.inference_mode()
def test_other_shapes_are_left_to_others(library: kernels.Library) -> None:
    weight = torch.ones(8, 48)
    assert products.few_rows_linear(torch.ones(1, 48), weight) is not None
    assert products.few_rows_linear(torch.ones(1, 47), weight) is None  # torch tells the error
    assert products.few_rows_linear(torch.ones(1, 48), weight.bfloat16()) is None
    assert products.few_rows_linear(torch.ones(1, 48), weight[:7]) is None
    assert products.few_rows_linear(torch.ones(1, 48), torch.ones(48, 8).t()) is None
    assert products.few_rows_linear(torch.ones(1, 96)[:, ::2], weight) is None
    assert products.few_rows_linear(torch.ones(100, 48), weight) is None
    assert products.few_rows_linear(torch.ones(0, 48), weight) is None
