"""Heavy imports: without garbage collection, and with it again afterwards; no more than needed."""

import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minicpmv.cli.startup import imports

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"


def test_nothing_is_collected_while_libraries_are_imported() -> None:
    assert gc.isenabled()
    before = gc.get_freeze_count()
    with imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    gc.unfreeze()


def test_a_missing_library_leaves_it_switched_on() -> None:
    with pytest.raises(ImportError, match="no_such_module"), imports():
        importlib.import_module("no_such_module")
    assert gc.isenabled()
    gc.unfreeze()


def run(code: str) -> str:
    """What a process of its own prints, in which nothing has been imported yet."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return done.stdout


def test_an_answer_needs_no_compiler() -> None:
    """Torch's compiler and what comes with it are a fifth of all imports; afterwards it is
    there."""
    code = f"""
import sys
from minicpmv.cli import main

code = main(["ask", "--device", "cpu", "What colour is the star?", {str(SCENE)!r}])
avoided = ["torch._dynamo", "torch.distributed.tensor", "sympy"]
print(code, [name for name in avoided if name in sys.modules])
import torch

print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
from transformers.utils import is_torch_distributed_available

print(is_torch_distributed_available() == torch.distributed.is_available())
"""
    assert run(code).split() == ["purple", "0", "[]", "2.0", "True"]


@pytest.mark.parametrize(
    "use",
    [
        "import torch; torch._dynamo.reset()",
        "from torch._dynamo import OptimizedModule",
        "import torch._dynamo.config",
        "from torch._dynamo.utils import counters",
    ],
)
def test_the_compiler_is_there_when_something_needs_it(use: str) -> None:
    code = f"""
import sys
from minicpmv.cli.startup import imports

with imports():
    import torch

    assert torch.compiler.disable(len) is len
    {use}
    print(hasattr(torch._dynamo, "optimize"), torch._dynamo is sys.modules["torch._dynamo"])
    print(sys.modules["torch._dynamo.config"] is torch._dynamo.config)
    print(torch._dynamo.config.__spec__.origin is not None)
"""
    assert run(code).split() == ["True"] * 4


@pytest.mark.parametrize(
    "made",
    [
        "torch.arange(0, 9, 2)",
        "torch.arange(5, dtype=torch.float) / 3",
        "1.0 / (10000.0 ** (torch.arange(0, 8, 2, dtype=torch.half) / 8))",
        "torch.arange(5) / 3",
        "torch.ones(3, 2).half() / torch.ones(2)",
        "torch.empty_like(torch.ones(3, 2).half())",
        "torch.empty_like(torch.ones(3, 2), dtype=torch.half)",
        "torch.empty_like(torch.ones(3, 2), dtype=None, device='cpu')",
        "torch.nn.init.normal_(torch.ones(3, 2))",
        "torch.nn.init.normal_(tensor=torch.ones(3, 2))",
        "torch.nn.Embedding(3, 2).weight.detach()",
    ],
)
def test_shapes_are_those_of_torch(made: str) -> None:
    def kind(tensor: torch.Tensor) -> tuple[object, ...]:
        return tuple(tensor.shape), tensor.dtype, tensor.device, tensor.stride()

    with torch.device("meta"):
        expected = kind(eval(made))
    with imports(), torch.device("meta"):
        assert kind(eval(made)) == expected
    gc.unfreeze()
    with imports():
        assert torch.equal(torch.arange(3) / 2, torch.tensor([0.0, 0.5, 1.0]))
    gc.unfreeze()


def test_an_adapter_loads_without_bitsandbytes(tmp_path: Path) -> None:
    """PEFT takes it that somebody has imported distributed tensors; bitsandbytes does."""
    pytest.importorskip("peft")
    code = """
import sys

sys.modules["bitsandbytes"] = None
from minicpmv.cli.startup import imports

with imports():
    from minicpmv import load
    from minicpmv.adapters import LoraSettings, Parts, apply_parts

    chat = load("nano", "cpu")
    apply_parts(chat.model, Parts("lora", False, False), LoraSettings())
    print("adapted")
"""
    assert run(code).split() == ["adapted"]


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("'serve'", "The server"),
        ("'batch', 'rows.jsonl', 'results.jsonl'", "A batch"),
        ("'evaluate', 'mine.jsonl', '--metric', 'vqa', '--base-url', 'http://a'", "--base-url"),
    ],
)
def test_a_missing_package_of_the_server_is_named_with_its_extra(
    tmp_path: Path, command: str, what: str
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"question": "What?", "answer": "It."}\n')
    found = run(
        f"import os, sys; os.chdir({str(tmp_path)!r}); sys.modules['fastapi'] = None\n"
        "sys.stderr = sys.stdout\n"
        "from minicpmv.cli import main\n"
        f"print(main([{command}]))"
    )
    assert f"{what} needs fastapi: pip install 'minicpmv[serve]'" in found
