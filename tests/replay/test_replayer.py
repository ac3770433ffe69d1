"""The replayer itself: damage is found where it is, and nothing that was recorded passes unread."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from .formats import read_all
from .kinds import replay
from .recording import Case, unpacked

GOLDEN = Path(__file__).parents[1] / "golden"
KEPT = {"minicpm-v-2_6": "single_tiny", "minicpm-v-2": "textonly", "minicpm-2b": "greedy_0"}


def recording(folder: Path, model: str, *, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a recording with one conversation, changed by `edit`."""
    shutil.copytree(GOLDEN / model / "public", folder / model / "public")
    file = next(
        f
        for name in ("chat.json", "manifest.json")
        if (f := folder / model / "public" / name).is_file()
    )
    fields = json.loads(file.read_text())
    cases = fields if isinstance(fields, list) else fields["cases"]
    cases[:] = [case for case in cases if case["name"] == KEPT[model]]
    edit(cases[0])
    file.write_text(json.dumps(fields))
    checkpoint = next(f for n in ("checkpoint", "ckpt") if (f := GOLDEN / model / n).is_dir())
    (folder / model / checkpoint.name).symlink_to(checkpoint)
    return folder


def failures(golden: Path, name: str | None = None) -> list[str]:
    """What the replay says against the cases of that name, or of all."""
    cases = [case for case in read_all(golden) if name in (None, case.name)]
    assert cases
    return [line for case in cases for line in replay(case).failures]


@pytest.mark.parametrize("model", KEPT)
def test_a_field_that_nobody_knows_fails(model, tmp_path):
    golden = recording(tmp_path, model, edit=lambda case: case.update(aura=1))
    assert failures(golden, KEPT[model]) == ["aura: nothing compares it"]


def test_a_kind_that_nobody_knows_fails(tmp_path):
    golden = recording(tmp_path, "minicpm-2b", edit=lambda case: case.update(kind="telepathy"))
    (case,) = (case for case in read_all(golden) if case.name == "greedy_0")
    with pytest.raises(LookupError, match="nothing replays cases of the kind 'telepathy'"):
        replay(case)


def test_an_input_that_is_not_used_fails(tmp_path):
    golden = recording(
        tmp_path, "minicpm-2b", edit=lambda case: case["inputs"].update(mood={"json": "glad"})
    )
    assert failures(golden, "greedy_0") == ["mood: the replay does not use this input"]


def test_a_case_without_values_fails(tmp_path):
    case = Case("m", "tokenize", "empty", tmp_path, tmp_path, {}, {})
    assert replay(case).failures == ["case: no value was recorded, so nothing is proven"]


def test_every_cell_of_a_table_of_sizes_is_compared(tmp_path):
    golden = recording(tmp_path, "minicpm-v-2_6", edit=lambda case: None)
    file = golden / "minicpm-v-2_6" / "public" / "slicing_table.json"
    table = json.loads(file.read_text())
    row = next(row for row in table["rows"] if row[3])
    row[3] = [row[3][1] + 1, row[3][0]]
    table["columns"].append("mood [glad,sad]")
    table["rows"] = [[*row, "glad"] for row in table["rows"][:1]] + [[*row, "sad"]]
    file.write_text(json.dumps(table))
    found = [line.split("/", 2)[-1] for line in failures(golden, "table")]
    assert [line.split(":")[0] for line in found] == ["mood", "best_grid", "mood"]


def test_scores_of_penalised_beams_are_compared(tmp_path):
    def edit(case: dict[str, Any]) -> None:
        case["beam3_rep1.2_all_scores"][0][0] += 0.01

    golden = recording(tmp_path, "minicpm-v-2_6", edit=edit)
    assert [line.split(":")[0] for line in failures(golden, "single_tiny")] == [
        "beam3_rep1.2/scores"
    ]


def test_a_file_that_nobody_reads_fails(tmp_path):
    golden = recording(tmp_path, "minicpm-v-2", edit=lambda case: None)
    (golden / "minicpm-v-2" / "public" / "more.json").write_text("{}")
    (case,) = (case for case in read_all(golden) if case.kind == "files")
    assert "more.json" in case.expected
    with pytest.raises(LookupError, match="kind 'files'"):
        replay(case)


def test_a_folder_without_recordings_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no recorded cases"):
        read_all(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        read_all(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="of no known format"):
        read_all(tmp_path)


def scaled(part: str) -> Callable[[Path], None]:
    """One matrix of that part is 2 % larger."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        name = next(name for name in sorted(tensors) if part in name and tensors[name].ndim == 2)
        tensors[name] *= 1.02
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def other_means(folder: Path) -> None:
    file = folder / "preprocessor_config.json"
    means = {"norm_mean": [0.48, 0.46, 0.41], "image_mean": [0.48, 0.46, 0.41]}
    file.write_text(json.dumps(json.loads(file.read_text()) | means))


@pytest.mark.parametrize(
    ("damage", "first"),
    [
        (scaled("vpm.encoder.layers.1.mlp.fc1"), "vision"),
        (scaled("resampler.proj"), "resampler"),
        (scaled("llm.model.layers.1.mlp.up_proj"), "logits"),
        (other_means, "strips_sha256"),
    ],
)
def test_damage_is_found_in_its_stage(damage, first, tmp_path):
    source = unpacked(GOLDEN / "minicpm-v-2_6" / "checkpoint")
    copy = tmp_path / "checkpoint"
    shutil.copytree(source, copy, copy_function=shutil.copyfile)
    damage(copy)
    (case,) = (c for c in read_all(GOLDEN / "minicpm-v-2_6") if c.name == "single_tiny")
    case.checkpoint = copy
    stages = ("strips_sha256", "vision", "resampler", "logits")
    named = {line.split(":")[0] for line in replay(case).failures}
    assert next(stage for stage in stages if stage in named) == first
