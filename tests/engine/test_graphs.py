"""What is recorded on CUDA, computed on the CPU without a recording: the same logits."""

from typing import Any

import pytest
import torch

from minicpmv.engine.block_store import BLOCK
from minicpmv.engine.decoder import Decoder
from minicpmv.engine.graphs import RecordedSteps, Step, size_of

from ..helpers.decoders import Sequences, small


class Recorder:
    """Counts recordings, and computes anew in place of replaying."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, compute: Step, pool: list[object]) -> Step:
        self.recorded += 1
        compute()  # as the warm-up does
        output = compute()

        def replay() -> torch.Tensor:
            self.replayed += 1
            return output.copy_(compute())

        return replay


def recording(model: Any, lengths: list[int]) -> tuple[Sequences, Recorder]:
    sequences, recorder = Sequences(model, lengths), Recorder()
    sequences.decoder.recorded_steps = RecordedSteps(sequences.decoder, recorder)
    return sequences, recorder


@pytest.mark.parametrize("name", ["qwen2", "qwen2-window", "minicpm", "llama-wide-heads"])
def test_recorded_steps_are_the_same(name: str) -> None:
    sequences, recorder = recording(small(name), [40, 90, 40])
    sequences.check((0, 30), (1, 85), (2, 1))
    assert recorder.recorded == 0  # no step
    sequences.check((0, 1), (1, 1), (2, 1))
    sequences.check((1, 1), (0, 1), (2, 1))
    sequences.check((2, 1), (0, 1), (1, 1))
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    sequences.check((0, 1), (2, 1))
    sequences.check((2, 1))
    sequences.check((0, 1))
    assert (recorder.recorded, recorder.replayed) == (3, 6)
    sequences.check((0, 2), (1, 1))  # a guess
    assert recorder.replayed == 6


def test_logits_of_a_step_outlive_the_next() -> None:
    sequences, _ = recording(small("qwen2"), [9])
    first = sequences.step((0, 1))[0]
    kept = first.clone()
    sequences.step((0, 1))
    assert torch.equal(first, kept)


def test_steps_are_recorded_anew_when_what_they_read_has_moved() -> None:
    model = small("qwen2")
    sequences, recorder = recording(model, [40])
    sequences.check((0, 1))
    sequences.check((0, 1))
    assert recorder.recorded == 1
    sequences.store.grow(2 * sequences.store.num_blocks)
    sequences.check((0, 1))
    assert recorder.recorded == 2
    product = model.model.layers[1].mlp.up_proj
    product.weight.data = product.weight.data.clone()
    sequences.check((0, 1))
    assert recorder.recorded == 3
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    sequences.check((0, 1))
    assert (recorder.recorded, recorder.replayed) == (4, 5)


def test_only_plain_models_are_recorded() -> None:
    sequences, recorder = recording(small("mixtral"), [9])
    sequences.check((0, 1))
    assert recorder.recorded == 0
    model = small("llama")
    sequences, recorder = recording(model, [9])
    sequences.check((0, 1))
    handle = model.model.layers[1].self_attn.o_proj.register_forward_hook(lambda *_: None)
    sequences.check((0, 1))
    assert (recorder.recorded, recorder.replayed) == (1, 1)
    handle.remove()
    sequences.check((0, 1))
    assert (recorder.recorded, recorder.replayed) == (2, 2)


def test_on_a_cpu_nothing_is_recorded() -> None:
    assert Decoder(small("llama")).recorded_steps is None


def test_sizes() -> None:
    assert [size_of(number) for number in (1, 2, 3, 5, 64, 65)] == [1, 2, 4, 8, 64, 128]
    assert BLOCK * 8 == 256  # tokens of the smallest
