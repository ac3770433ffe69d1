"""The tables and prompts of docs/releases.md are computed; the page holds what they come to.

`python -m tests.test_releases` writes them anew. Sizes come from `released_configs/` and the shapes
that follow from them, cuts from `minicpmv.processing.slicing`, prompts from the chat templates,
settings from `minicpmv/releases.py`.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minicpmv.processing.cost import CutSettings, plan_cost
from minicpmv.processing.placeholders import IMAGE_MARKER, RELEASED_TAGS, image_placeholder
from minicpmv.releases import RELEASES, TEXT_RELEASES

from .helpers.released_tensors import count, parts, released

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "releases.md"
GOLDEN = ROOT / "tests" / "golden"
NANO = ROOT / "minicpmv" / "nano"

LANGUAGE_MODELS = {
    "minicpm": "MiniCPM",
    "llama": "Llama 3",
    "qwen2": "Qwen2",
    "mistral": "Mistral",
}
# height x width
SIZES = (
    (300, 400),
    (448, 448),
    (480, 640),
    (720, 1280),
    (1080, 1920),
    (1344, 1344),
    (3024, 4032),
    (3508, 2480),
)


@dataclass(frozen=True)
class Member:
    """A column or row of the page. `sees` is the row of a release with a vision tower."""

    name: str
    repo: str
    config: dict[str, Any]
    checkpoint: Path
    says: Any

    @property
    def sees(self):
        return self.says if "query_num" in self.config or "num_query" in self.config else None

    @property
    def num_queries(self):
        return self.config.get("query_num", self.config.get("num_query"))

    @property
    def shapes(self):
        return parts(self.config)

    @property
    def is_tied(self):
        return not any(name.endswith("lm_head.weight") for name in self.shapes[-1])

    @property
    def settings(self):
        """How pictures are cut; None where they never are."""
        if self.sees.slicing != "adaptive":
            return None
        cut = self.config.get("slice_config") or self.config
        return CutSettings(
            max_slice_nums=cut["max_slice_nums"],
            scale_resolution=cut.get("scale_resolution", 448),
            patch_size=14,
            num_queries=self.num_queries,
            slice_mode=True,
            use_image_id=self.sees.use_image_id,
            tag_every_slice=self.sees.slice_tags == "cell",
        )

    def cost(self, height, width):
        """(visual tokens, with tags, grid) of a picture."""
        if self.settings is None:
            return self.num_queries, self.num_queries + 2, None
        cost = plan_cost(height, width, self.settings.max_slice_nums, self.settings)
        return cost.num_visual_tokens, cost.num_tokens, cost.plan.grid

    def frame_tokens(self):
        """Tokens of a frame of a long video: one slice, no number."""
        return self.num_queries + 2


def members():
    rows = [
        ("minicpm-v-1_0", "checkpoint", RELEASES["1.0"]),
        ("minicpm-v-2", "checkpoint", RELEASES["2.0"]),
        ("omnilmm-12b", "checkpoint", RELEASES["omnilmm-12b"]),
        ("minicpm-llama3-v-2_5", "checkpoint", RELEASES["2.5"]),
        ("minicpm-v-2_6", "checkpoint", RELEASES["2.6"]),
        ("minicpm-2b", "ckpt", TEXT_RELEASES["2b"]),
        ("minicpm-1b", "ckpt", TEXT_RELEASES["1b"]),
        ("minicpm-2b-128k", "ckpt", TEXT_RELEASES["2b-128k"]),
        ("minicpm-moe-8x2b", "ckpt", TEXT_RELEASES["moe-8x2b"]),
    ]
    found = [
        Member(says.name, says.repo_ids[0], released(name), GOLDEN / name / folder, says)
        for name, folder, says in rows
    ]
    config = json.loads((NANO / "config.json").read_text())
    return [*found, Member("nano", "in this package", config, NANO, RELEASES["2.6"])]


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def hub(member):
    return member.repo if member.name == "nano" else f"`{member.repo}`"


def language_model(member):
    if member.name == "nano":
        return "Qwen2"
    return LANGUAGE_MODELS[member.sees.text_model_type if member.sees else "minicpm"]


def tower(member):
    if not member.sees:
        return "none"
    if member.config["model_type"] == "omnilmm":
        return "EVA-02: 63 x 1792"
    if "vision_encoder" in member.config:
        return "SigLIP: 26 x 1152"
    vision = member.config["vision_config"]
    kind = "own" if member.name == "nano" else "SigLIP"
    return f"{kind}: {vision['num_hidden_layers']} x {vision['hidden_size']}"


def members_table():
    rows = []
    for member in members():
        config = member.config
        experts = f", {config['num_experts']} experts" if config.get("num_experts") else ""
        heads, narrow = config["num_attention_heads"], config["num_key_value_heads"]
        rows.append(
            (
                f"**{member.name}**",
                hub(member),
                tower(member),
                f"{language_model(member)}: {config['num_hidden_layers']} x "
                f"{config['hidden_size']}{experts}",
                f"{heads}, {narrow}",
                config["vocab_size"],
                config["max_position_embeddings"],
                config["torch_dtype"],
            )
        )
    head = (
        "",
        "on the hub",
        "vision tower: layers x width",
        "language model: layers x width",
        "heads, for keys",
        "vocabulary",
        "context, tokens",
        "published as",
    )
    return table(head, rows)


def parameters_table():
    rows = []
    for member in members():
        sizes = [count(shapes) for shapes in member.shapes]
        eyes = [f"{size:,}" for size in sizes[:-1]] or ["", ""]
        embedding = count(
            {name: shape for name, shape in member.shapes[-1].items() if is_embedding(name)}
        )
        share = f"{embedding:,}{', tied' if member.is_tied else ''}"
        rows.append((f"**{member.name}**", *eyes, f"{sizes[-1]:,}", share, f"{sum(sizes):,}"))
    head = (
        "",
        "vision tower",
        "resampler",
        "language model",
        "of that embedding and head",
        "in all",
    )
    return table(head, rows)


def is_embedding(name):
    return name.endswith(("embed_tokens.weight", "lm_head.weight"))


def is_quantized(name):
    """Of the language model: the matrices of its layers, but not the router of the experts."""
    return (".layers." in name and name.endswith("proj.weight")) or ".experts." in name


def packed_bits(name, shape, is_int4, is_tied, is_grouped):
    """Bits of a packed weight; None for what stays in 16."""
    if len(shape) != 2 or not name.endswith(".weight"):
        return None
    if name.endswith((".gate.weight", "position_embedding.weight")):
        return None
    if not is_int4 or name.startswith(("vpm.", "resampler.", "model.vision")):
        return 8
    if name.endswith("lm_head.weight"):
        return 4 if is_grouped else 8
    if name.endswith("embed_tokens.weight"):
        return 8 if is_tied else 4
    return 8 if is_grouped and name.endswith(("k_proj.weight", "v_proj.weight")) else 4


def packed_bytes(member, is_int4):
    size, config = 0, member.config
    is_grouped = config["num_attention_heads"] >= 2 * config["num_key_value_heads"]
    is_grouped = is_grouped and not member.is_tied
    for shapes in member.shapes:
        for name, shape in shapes.items():
            bits = packed_bits(name, shape, is_int4, member.is_tied, is_grouped)
            if bits is None:
                size += 2 * math.prod(shape)
                continue
            # Tiles of 16 outputs and 32 inputs: 2 bytes of scale for each output, and the numbers.
            tiles = math.ceil(shape[0] / 16) * math.ceil(shape[1] / 32)
            size += tiles * 16 * (2 + 32 * bits // 8)
    return size


def weight_bytes(member, dtype):
    """Bytes of the weights, as `load(dtype=)` and `load(quantize=)` keep them."""
    *eyes, text = member.shapes
    total = sum(map(count, eyes)) + count(text)
    if dtype in ("float32", "16 bit"):
        return total * {"float32": 4, "16 bit": 2}[dtype]
    if dtype in ("int4", "int8"):
        return packed_bytes(member, dtype == "int4")
    size = 2 * sum(map(count, eyes))
    for name, shape in text.items():
        numel = math.prod(shape)
        if not is_quantized(name) or (dtype == "nf4" and shape[1] % 64):
            size += 2 * numel
        elif dtype == "llm.int8":
            size += numel + 4 * shape[0]  # a scale for each row
        else:
            # A byte of scale for 64 numbers, a float32 of scale for 256 of those.
            scales = math.ceil(numel / 64)
            size += numel // 2 + scales + 4 * math.ceil(scales / 256)
    return size


def cache_bytes(member):
    config = member.config
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim * 2


def gigabytes(size):
    return f"{size / 1e9:.2f}" if size >= 1e8 else f"{size / 1e9:.3f}"


def memory_table():
    dtypes = ("float32", "16 bit", "int8", "int4", "llm.int8", "nf4")
    rows = [
        (
            f"**{member.name}**",
            *(gigabytes(weight_bytes(member, dtype)) for dtype in dtypes),
            gigabytes(1000 * cache_bytes(member)),
            gigabytes(member.config["max_position_embeddings"] * cache_bytes(member)),
        )
        for member in members()
    ]
    head = ("GB", *dtypes, "cache of 1000 tokens", "cache of the whole context")
    return table(head, rows)


def vision_members():
    return [member for member in members() if member.sees]


def pictures_table():
    rows = []
    for member in vision_members():
        cut, context = member.settings, member.config["max_position_embeddings"]
        if cut is None:
            shape = "resized to 448 x 448, shape not kept"
            most = member.num_queries + 2
        else:
            shape = f"about {cut.scale_resolution} x {cut.scale_resolution} each, shape kept"
            most = max(member.cost(height, width)[1] for height, width in SIZES)
        slices = "1" if cut is None or cut.max_slice_nums == 1 else f"1, or 3 to {most_slices(cut)}"
        rows.append(
            (
                f"**{member.name}**",
                slices,
                shape,
                member.num_queries,
                most,
                context // member.frame_tokens(),
            )
        )
    head = (
        "",
        "slices of a picture",
        "pixels of a slice",
        "visual tokens per slice",
        "most tokens of a picture",
        "frames of a video that fill the context",
    )
    return table(head, rows)


def most_slices(cut):
    return cut.max_slice_nums + 1


def tokens_table():
    columns = [member for member in vision_members() if member.settings and member.name != "nano"]
    rows = []
    for height, width in SIZES:
        costs = [member.cost(height, width) for member in columns]
        (grid,) = {grid for _, _, grid in costs}
        num_slices = costs[0][0] // columns[0].num_queries
        cells = [f"{visual} ({tokens})" for visual, tokens, _ in costs]
        shape = "-" if grid is None else "{} x {}".format(*grid)
        rows.append((f"{height} x {width}", shape, num_slices, *cells))
    head = ("height x width", "grid", "slices", *(member.name for member in columns))
    return table(head, rows)


def answers_table():
    rows = []
    for member in members():
        if member.name == "nano":
            continue
        says, sampling = member.says, member.says.sampling
        drawing = f"top_p {sampling.top_p}, top_k {sampling.top_k}, temperature "
        drawing += f"{sampling.temperature}, penalty {sampling.repetition_penalty}"
        beams = "beam" if sampling.num_beams == 1 else "beams"
        searching = f"{sampling.num_beams} {beams}, penalty {sampling.beam_repetition_penalty}"
        ends = [f"`{text}`".replace("|", "\\|") for text in (*says.terminators, *says.stop_texts)]
        longest_prompt = says.max_inp_length if member.sees else "-"
        rows.append(
            (
                f"**{member.name}**",
                "samples" if sampling.draws else "beam search",
                drawing,
                searching,
                longest_prompt,
                says.max_new_tokens,
                ", ".join(ends),
            )
        )
    head = (
        "",
        "by default",
        "sampling (`sampling=True`)",
        "beam or greedy search (`sampling=False`)",
        "longest prompt",
        "longest answer",
        "an answer ends with",
    )
    return table(head, rows)


def prompt(member):
    """A question about a picture cut into 2 x 2 cells, as the model reads it."""
    import minicpmv.auto  # noqa: F401

    if member.sees:
        from minicpmv.processing import MiniCPMVProcessor

        processor = MiniCPMVProcessor.from_pretrained(member.checkpoint)
        tokenizer = processor.tokenizer
        content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
        message = {"role": "user", "content": content}
        text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        can_cut = member.sees.slicing == "adaptive"
        placeholder = image_placeholder(
            (2, 2) if can_cut else None,
            1,
            tag_every_slice=member.sees.slice_tags == "cell",
            image_id=0 if member.sees.use_image_id else None,
            tags=RELEASED_TAGS | dict(member.sees.tags) | {"unk": "U"},
        )
        assert text.count(IMAGE_MARKER) == 1
        text = text.replace(IMAGE_MARKER, placeholder)
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(member.checkpoint)
        message = {"role": "user", "content": "What is this?"}
        text = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    starts_with_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    if starts_with_bos and not text.startswith(tokenizer.bos_token):
        text = tokenizer.bos_token + text
    return text


def prompt_blocks():
    """One block for all members with the same prompt."""
    together: dict[str, list[str]] = {}
    for member in members():
        together.setdefault(prompt(member), []).append(member.name)
    return "\n\n".join(
        f"{', '.join(names)}:\n\n```text\n{text}\n```" for text, names in together.items()
    )


FILLERS = {
    "members": members_table,
    "parameters": parameters_table,
    "memory": memory_table,
    "pictures": pictures_table,
    "tokens": tokens_table,
    "answers": answers_table,
    "prompts": prompt_blocks,
}


def filled(page):
    """The page with what is computed between its marks `<!-- NAME -->` and `<!-- end -->`."""

    def fill(match):
        return f"<!-- {match[1]} -->\n\n{FILLERS[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", fill, page, flags=re.DOTALL)


def test_the_page_holds_what_is_computed():
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "python -m tests.test_releases writes it anew"
    assert set(re.findall(r"<!-- (\w+) -->", page)) == {*FILLERS, "end"}


@pytest.mark.parametrize("quantize", [None, "int8", "int4", "llm.int8", "nf4"])
def test_weights_take_the_memory_that_is_said(quantize):
    """Counted on nano, as it is loaded."""
    pytest.importorskip("bitsandbytes")
    from minicpmv.loader import load

    member = members()[-1]
    model = load("nano", device="cpu", dtype="bfloat16", quantize=quantize).model
    size = 0
    for parameter in model.parameters():
        size += parameter.data.nbytes
        state, scales = getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)
        if state is not None:
            size += state.absmax.nbytes + state.state2.absmax.nbytes
        if scales is not None:
            size += scales.nbytes
    assert size == weight_bytes(member, quantize or "16 bit")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
