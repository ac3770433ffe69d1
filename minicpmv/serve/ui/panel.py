"""The controls beside a conversation: how answers are made."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from .conversation import Options
from .texts import Texts
from .uploads import MAX_PAGES
from .words import say

DRAWS = ("model", "likeliest", "sampled")


@dataclass(frozen=True)
class Controls:
    """The components of `Options`, in the order in which `options` takes their values."""

    system: Any
    draw: Any
    temperature: Any
    top_p: Any
    seed: Any
    max_tokens: Any
    penalty: Any
    slices: Any
    frames: Any

    def inputs(self) -> list[Any]:
        return list(vars(self).values())


def options(model: str | None, *values: Any) -> Options:
    """The options that the controls stand at; cleared fields are their defaults."""
    names = list(Controls.__dataclass_fields__)
    given = {
        name: value for name, value in zip(names, values, strict=True) if value not in (None, "")
    }
    return Options(model or "", **given)


def make_controls(texts: Texts, *, compact: bool = False) -> Controls:
    """Draw the controls here; `compact` leaves out what a comparison seldom needs."""

    def choices(language: str) -> list[tuple[str, str]]:
        return [(say(f"draw_{draw}", language), draw) for draw in DRAWS]

    system = texts.add(gr.Textbox(lines=2, max_lines=6), label="system", placeholder="system_hint")
    draw = texts.add(
        gr.Radio(choices("en"), value="model", elem_classes="draw"), label="draw", choices=choices
    )
    with gr.Group(visible=False) as sampled:
        temperature = texts.add(gr.Slider(0.05, 2, 0.7, step=0.05), label="temperature")
        top_p = texts.add(gr.Slider(0.05, 1, 0.9, step=0.05), label="top_p")
        seed = texts.add(gr.Textbox(max_lines=1), label="seed", placeholder="seed_hint")
    max_tokens = texts.add(gr.Slider(16, 4096, 512, step=16), label="max_tokens")
    penalty = texts.add(gr.Slider(0.8, 1.5, 1, step=0.05, visible=not compact), label="penalty")
    slices = texts.add(gr.Slider(0, 16, 0, step=1), label="slices", info="slices_hint")
    frames = texts.add(
        gr.Slider(0, 64, 0, step=1, visible=not compact), label="frames", info="frames_hint"
    )
    draw.change(
        lambda value: gr.update(visible=value == "sampled"),
        draw,
        sampled,
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )
    return Controls(system, draw, temperature, top_p, seed, max_tokens, penalty, slices, frames)


def pages_hint(language: str) -> str:
    return say("pages_hint", language, most=MAX_PAGES)
