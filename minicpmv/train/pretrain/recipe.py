"""The recipe of the default model as tables: the sizes it comes in and the stages it passes.

The stages are those of the papers in small (MiniCPM-V, arXiv 2408.01800, sections 3.3 and 3.4),
with one difference: there the language model arrives trained and stays frozen during pre-training;
one from random weights has nothing worth freezing, so everything is trained together. The learning
rate warms up at the head of every stage, stays near the rate of that stage, and falls to zero over
the last one, into which the data of chat go (MiniCPM, arXiv 2404.06395, section 4).
"""

from dataclasses import dataclass

from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.train.pretrain.letters import LETTERS

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


SIZES = {
    "micro": Size(32, 1, 1, 128, 256, 1, 2, 1, 2, 0, scale_resolution=56),
    "tiny": Size(192, 3, 2, 256, 512, 3, 4, 2),
    "nano": Size(256, 4, 2, 384, 768, 4, 6, 2),
    "small": Size(384, 8, 3, 512, 1536, 8, 8, 4),
}


@dataclass(frozen=True)
class Shape:
    """How batches are packed; stages of one shape share a compiled graph.

    Per 32 slices there are `rows` of `length` tokens, `answers` of which are learned.
    """

    rows: int
    length: int
    answers: int
    max_slices: int = 1  # per picture


@dataclass(frozen=True)
class Stage:
    """One stage: what it sees, and how it learns.

    `share` is its part of the time when a run is given minutes, `steps` is its length otherwise.
    `tasks` are what is asked; none stands for all. The weight of the dense loss and the share of
    the learning rate go from the first number to the second.
    """

    name: str
    steps: int
    share: float
    mix: dict[str, float]
    shape: Shape
    tasks: tuple[str, ...] = ()
    with_text: bool = True
    dense_weight: tuple[float, float] = (1.0, 1.0)
    rate: tuple[float, float] = (1.0, 1.0)


MAX_QUESTIONS = 14  # to a picture

_ONE_SLICE = Shape(26, 320, 1400)
_SLICED = Shape(7, 960, 1500, MAX_SLICES)

_EVERYTHING = (
    {LETTERS: 1.0, "few": 3.0, "many": 3.0, "icons": 2.5}
    | {"word": 3.5, "number": 1.0, "line": 4.5, "sign": 0.3}
    | {"page": 0.3, "receipt": 0.1, "form": 0.1, "code": 0.1, "table": 0.3, "chart": 0.2}
    | {"same": 1.5, "which": 2.0, "difference": 0.3, "few_shot": 2.2, "video": 0.5}
)

_PLAIN_TASKS = (
    "colour",
    "shape",
    "existence",
    "counting",
    "position",
    "background",
    "relation",
    "caption",
)
_READING_TASKS = (
    *_PLAIN_TASKS,
    "colour_statement",
    "shape_statement",
    "reading_word",
    "reading_line",
    "reading_part",
)

STAGES = (
    Stage(
        "dense",
        steps=4000,
        share=0.28,
        mix={LETTERS: 2.5, "few": 3.0, "many": 4.0, "icons": 3.0},
        shape=Shape(1, 8, 1),
        with_text=False,
    ),
    # The language model finds out where to look on a few plain questions. Asked everything at
    # once it stays at guessing for many thousand pictures, and a higher rate keeps it there
    # (recipes/LOG.md). The next two stages have the shapes of this one: nothing is compiled anew.
    Stage(
        "captions",
        steps=800,
        share=0.18,
        mix={LETTERS: 0.8, "few": 5.0, "many": 5.0, "icons": 1.0},
        tasks=_PLAIN_TASKS,
        shape=_ONE_SLICE,
        dense_weight=(0.6, 0.6),
        rate=(0.4, 0.4),
    ),
    # Where things are, and how they lie to each other, is learned within minutes when hardly
    # anything else is asked; in a mixture it was not learned at all (recipes/LOG.md).
    Stage(
        "places",
        steps=600,
        share=0.1,
        mix={LETTERS: 0.3, "few": 8.0, "many": 2.0, "word": 1.5, "line": 1.5},
        tasks=("relation", "position", "existence", "reading_word", "reading_line"),
        shape=_ONE_SLICE,
        dense_weight=(0.6, 0.6),
        rate=(0.2, 0.2),
    ),
    Stage(
        "reading",
        steps=2000,
        share=0.19,
        mix={LETTERS: 1.0, "few": 3.0, "many": 3.0, "icons": 2.0}
        | {"word": 4.0, "number": 1.0, "line": 4.5},
        tasks=_READING_TASKS,
        shape=_ONE_SLICE,
        dense_weight=(0.6, 0.6),
        rate=(0.2, 0.13),
    ),
    # Like places: looking from one picture to the other, and following a form.
    Stage(
        "pairs",
        steps=600,
        share=0.04,
        mix={LETTERS: 0.2, "few": 1.0, "word": 0.6, "line": 0.6, "same": 7.0, "which": 3.0},
        tasks=_READING_TASKS,
        shape=_SLICED,
        dense_weight=(0.5, 0.5),
        rate=(0.2, 0.2),
    ),
    Stage(
        "forms",
        steps=400,
        share=0.03,
        mix={LETTERS: 0.2, "few": 1.0, "word": 0.6, "line": 0.6}
        | {"same": 0.7, "which": 0.7, "few_shot": 8.0},
        tasks=_READING_TASKS,
        shape=_SLICED,
        dense_weight=(0.5, 0.5),
        rate=(0.2, 0.2),
    ),
    Stage(
        "slices",
        steps=1000,
        share=0.04,
        mix=_EVERYTHING,
        tasks=(
            *_READING_TASKS,
            "size",
            "reading_page",
            "document",
            "table_cell",
            "chart_value",
        ),
        shape=_SLICED,
        dense_weight=(0.5, 0.5),
        rate=(0.11, 0.1),
    ),
    Stage(
        "chat",
        steps=1500,
        share=0.14,
        mix=_EVERYTHING,
        shape=_SLICED,
        dense_weight=(0.5, 0.3),
        rate=(0.1, 0.0),
    ),
)


def build_config(size: Size, vocab_size: int) -> MiniCPMVConfig:
    """Release 2.6 in small."""
    return MiniCPMVConfig.from_dict(
        {
            "model_type": "minicpmv",
            "version": "2.6",
            "variant": "nano",
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
