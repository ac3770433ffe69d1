"""What was computed with a model holds while its state is the same, and no longer."""

import pytest
import torch
from torch import nn

from minicpmv import load
from minicpmv.engine import engine, inputs
from minicpmv.engine.state import State, state_of, structure_of

from ..helpers.tiny import tiny_model


def changed(before: State, after: State) -> set[str]:
    return {name for name in State._fields if getattr(before, name) != getattr(after, name)}


def test_what_is_looked_at_twice_is_the_same() -> None:
    model = tiny_model("2.6")
    state = state_of(model)
    assert state_of(model) == state
    assert structure_of(model) == state.structure
    assert state_of(tiny_model("2.6")) != state


def replace_deep(model: nn.Module) -> None:
    layer = model.model.language_model.layers[-1]
    layer.mlp.down_proj = nn.Linear(4, 4)


def share(model: nn.Module) -> None:
    first, *_, last = model.model.language_model.layers
    last.mlp = first.mlp


def step(model: nn.Module) -> None:
    with torch.no_grad():
        model.lm_head.weight.add_(1)


def give_data(model: nn.Module) -> None:
    model.lm_head.weight.data = model.lm_head.weight.data.clone()


def give_parameter(model: nn.Module) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def add_parameter(model: nn.Module) -> None:
    model.model.language_model.layers[0].register_parameter("gate", nn.Parameter(torch.ones(1)))


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (replace_deep, {"structure", "weights"}),
        (share, {"structure", "weights"}),
        (lambda model: model.to(torch.bfloat16), {"structure", "weights"}),
        (step, {"weights"}),
        (give_data, {"weights"}),
        (give_parameter, {"weights"}),
        (add_parameter, {"weights"}),
    ],
)
def test_changes_are_seen(change, fields) -> None:
    model = tiny_model("2.6")
    before = state_of(model)
    change(model)
    assert changed(before, state_of(model)) == fields


def test_the_state_of_an_adapter_is_seen() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], r=2)
    model = peft.inject_adapter_in_model(config, tiny_model("2.6"))
    before = state_of(model)
    adapted = [module for module in model.modules() if hasattr(module, "base_layer")]
    adapted[-1].enable_adapters(False)
    assert changed(before, state_of(model)) == {"weights"}
    adapted[-1].enable_adapters(True)
    adapted[0].scaling["default"] = 0.5
    assert changed(before, state_of(model)) == {"weights"}


def test_a_model_that_is_fixed_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"sampling": False, "num_beams": 1, "max_new_tokens": 4}
    with load("nano", "cpu", progress=False) as chat:
        answer = chat.ask("Hi", **options)
        chat.engine.fix_model()
        monkeypatch.delattr(engine, "state_of")
        monkeypatch.delattr(engine, "structure_of")
        assert chat.ask("Hi", **options) == answer
        assert chat.ask("Hi, you", **options).num_cached_tokens
        assert "requests" in chat.engine.stats()


def test_plans_of_a_fixed_model_are_found_by_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    own = inputs.plan_generation
    monkeypatch.setattr(inputs, "plan_generation", lambda *a: calls.append(a) or own(*a))
    with load("nano", "cpu", progress=False) as chat:
        plan = chat.engine.settings([], {"sampling": True, "top_k": 1}).plan
        chat.engine.fix_model()
        kept = chat.engine.settings([], {"sampling": True, "top_k": 1}).plan
        assert chat.engine.settings([], {"sampling": True, "top_k": 1}).plan is kept
        assert len(calls) == 2
        assert kept.config == plan.config
        with pytest.raises(ValueError, match="top_k"):
            chat.engine.settings([], {"sampling": True, "top_k": True})  # which equals 1
        capped = chat.engine.settings([], {"sampling": True, "top_k": 1}).capped(2)
        assert (capped.plan.config.max_new_tokens, kept.config) == (2, plan.config)

        class Number(int):
            def __eq__(self, other: object) -> bool:  # and so it has no hash
                return True

        odd = {"sampling": True, "top_k": Number(1)}
        assert chat.engine.settings([], odd).plan.config == plan.config
        with_stop = {"sampling": True, "stop": ["a"]}
        first, other = (chat.engine.settings([], with_stop).plan for _ in range(2))
        assert first is not other
        for seed in range(inputs._MOST_PLANS + 1):
            chat.engine.settings([], {"sampling": True, "seed": seed})
        assert chat.engine.settings([], {"sampling": True, "top_k": 1}).plan.config == plan.config
