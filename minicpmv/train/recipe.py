"""The recipe of the default model as tables: the sizes it comes in and the stages it passes.

The stages are those of the papers in small (MiniCPM-V, arXiv 2408.01800, sections 3.3 and 3.4),
with one difference: there the language model arrives trained and stays frozen during pre-training;
one from random weights has nothing worth freezing, so everything is trained together. The learning
rate warms up at the head of every stage, stays, and falls to zero over the last one, into which the
data of chat go (MiniCPM, arXiv 2404.06395, section 4).
"""

from dataclasses import dataclass

from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.train.letters import LETTERS

PATCH_SIZE = 14
# Places of the tower's position table per side: a line of print makes slices of up to 56 patches in
# a row, and neighbours must be told apart.
TABLE_SIDE = 56
MAX_SLICES = 9


@dataclass(frozen=True)
class Size:
    """Widths and depths of a model; `hidden_size` is a multiple of 128.

    The resampler's queries begin as a map of `map_side` x `map_side` places of a square slice, and
    as `columns` of a wide one.
    """

    vision_size: int
    vision_layers: int
    vision_heads: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    map_side: int = 8
    columns: int = 36
    scale_resolution: int = 224

    @property
    def queries(self) -> int:
        """Tokens of a slice."""
        return self.map_side**2 + self.columns

    @property
    def max_patches(self) -> int:
        """Patches of a slice."""
        return (self.scale_resolution // PATCH_SIZE) ** 2


SIZES = {
    "micro": Size(32, 1, 1, 128, 256, 1, 2, 1, 2, 0, scale_resolution=56),
    "tiny": Size(192, 3, 2, 256, 512, 3, 4, 2),
    "nano": Size(256, 4, 2, 384, 768, 4, 6, 2),
    "small": Size(384, 8, 3, 512, 1536, 8, 8, 4),
}


@dataclass(frozen=True)
class Stage:
    """One stage: what it sees, and how it learns.

    Per 32 slices there are `rows` sequences of `length` tokens. `share` is its part of the time
    when a run is given minutes, `steps` is its length otherwise. `tasks` are what is asked; none
    stands for all. The weight of the dense loss goes
    from the first of `dense_weight` to the second.
    """

    name: str
    steps: int
    share: float
    mix: dict[str, float]
    rows: int
    length: int
    answers: int
    max_slices: int = 1
    max_questions: int = 8
    tasks: tuple[str, ...] = ()
    with_text: bool = True
    dense_weight: tuple[float, float] = (1.0, 1.0)
    rate: tuple[float, float] = (1.0, 1.0)


_FIGURES = {"few": 3.0, "many": 4.0, "icons": 3.0}
_PRINT = {"word": 3.0, "number": 1.0, "line": 3.0, "sign": 0.5}
_PAGES = {"page": 3.0, "receipt": 1.0, "form": 1.0, "code": 0.5, "table": 3.0, "chart": 2.0}
_PICTURES = {"same": 1.5, "which": 1.5, "difference": 0.5, "few_shot": 1.5, "video": 1.5}

_PLAIN_TASKS = (
    "colour",
    "shape",
    "existence",
    "counting",
    "position",
    "background",
    "relation",
)
_READING_TASKS = ("reading_word", "reading_line", "reading_part")

STAGES = (
    Stage(
        "dense",
        steps=4000,
        share=0.3,
        mix={LETTERS: 2.5} | _FIGURES,
        rows=1,
        length=8,
        answers=1,
        with_text=False,
    ),
    # The language model finds out where to look on a few plain questions. Asked everything at
    # once it stays at guessing for many thousand pictures (recipes/LOG.md).
    Stage(
        "captions",
        steps=600,
        share=0.15,
        mix={LETTERS: 0.8, "few": 5.0, "many": 5.0, "icons": 1.0},
        tasks=(*_PLAIN_TASKS, "caption"),
        rows=24,
        length=288,
        answers=1300,
        max_questions=12,
        dense_weight=(0.6, 0.6),
        rate=(0.67, 0.67),
    ),
    Stage(
        "reading",
        steps=1500,
        share=0.25,
        mix={LETTERS: 2.0, "few": 2.0, "many": 3.5, "icons": 2.0}
        | {"word": 3.0, "number": 1.0, "line": 3.5},
        tasks=(*_PLAIN_TASKS, "size", *_READING_TASKS),
        rows=17,
        length=320,
        answers=1000,
        max_questions=12,
        dense_weight=(0.6, 0.6),
        rate=(0.67, 0.67),
    ),
    Stage(
        "slices",
        steps=2500,
        share=0.2,
        mix={LETTERS: 1.0} | _FIGURES | _PRINT | _PAGES | _PICTURES,
        rows=6,
        length=1024,
        answers=1500,
        max_slices=MAX_SLICES,
        dense_weight=(0.5, 0.5),
        rate=(0.5, 0.5),
    ),
    Stage(
        "chat",
        steps=1000,
        share=0.1,
        mix={LETTERS: 1.0} | _FIGURES | _PRINT | _PAGES | _PICTURES,
        rows=6,
        length=1024,
        answers=1500,
        max_slices=MAX_SLICES,
        max_questions=12,
        dense_weight=(0.5, 0.2),
        rate=(0.5, 0.0),
    ),
)


def build_config(size: Size, vocab_size: int) -> MiniCPMVConfig:
    """Release 2.6 in small."""
    return MiniCPMVConfig.from_dict(
        {
            "model_type": "minicpmv",
            "version": "2.6",
            "architectures": ["MiniCPMV"],
            "hidden_size": size.hidden_size,
            "intermediate_size": size.intermediate_size,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "vocab_size": vocab_size,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,  # short texts
            "tie_word_embeddings": False,
            "image_size": size.scale_resolution,
            "patch_size": PATCH_SIZE,
            "query_num": size.queries,
            "slice_mode": True,
            "drop_vision_last_layer": False,
            "batch_vision_input": True,
            "use_image_id": True,
            "slice_config": {
                "max_slice_nums": MAX_SLICES,
                "patch_size": PATCH_SIZE,
                "scale_resolution": size.scale_resolution,
                "model_type": "minicpmv",
            },
            "vision_config": {
                "hidden_size": size.vision_size,
                "image_size": TABLE_SIDE * PATCH_SIZE,
                "intermediate_size": 4 * size.vision_size,
                "model_type": "siglip",
                "num_attention_heads": size.vision_heads,
                "num_hidden_layers": size.vision_layers,
                "patch_size": PATCH_SIZE,
            },
        }
    )
