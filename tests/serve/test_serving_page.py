"""What docs/serving.md shows is tried on a server; its tables name what there is."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
import yaml

from minicpmv.serve.app import create_app
from minicpmv.serve.metrics import Metrics
from minicpmv.serve.schema.openai import ChatRequest
from minicpmv.serve.settings import ROWS, ServeSettings, flag_of

from ..helpers.clips import clip
from ..helpers.fake_vllm import serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
OTHERS = (ROOT / "docs/protocols.md").read_text(encoding="utf-8")
PROGRAMS, OF_OTHERS = (
    re.findall(r"^```py\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    for page in (PAGE, OTHERS)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the page names."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "clip.mp4").write_bytes(clip())
    return folder


@pytest.fixture(scope="module")
def url(place):
    settings = ServeSettings(allowed_local_media_path=str(place), max_tokens=40)
    with serving(create_app(settings)) as found:
        yield found


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_run(number, url, place, monkeypatch):
    monkeypatch.chdir(place)
    program = PROGRAMS[number].replace("http://127.0.0.1:8000", url)
    program = program.replace("file:///videos", f"file://{place}")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    assert said.getvalue().strip()
    if number == 0:
        assert said.getvalue() == "purple"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # left open
@pytest.mark.parametrize("name", ["anthropic", "ollama"])
def test_programs_for_other_clients_run(name, url, place, monkeypatch):
    (program,) = (each for each in OF_OTHERS if f"from {name} import" in each)
    program = program.replace("http://127.0.0.1:8000", url)
    compile(program, "program", "exec")
    pytest.importorskip(name)
    monkeypatch.chdir(place)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(program, {"__name__": "__main__"})
    assert said.getvalue().strip() == "purple"


def test_paths_of_the_page_are_answered():
    document = create_app(ServeSettings()).openapi()
    shown = set(re.findall(r"`(?:(?:GET|POST) )?(/[a-z_0-9/]+)`", _table("path")))
    known = set(document["paths"]) | {"/health", "/openapi.json"}
    assert {path for path in shown if path not in known} == set()
    assert len(shown) > 15


def test_fields_of_the_page_are_known():
    known = {field.alias or name for name, field in ChatRequest.model_fields.items()}
    rows = PAGE[PAGE.index("| used |") : PAGE.index("| refused |")]
    shown = {word for cell in re.findall(r"`([^`]+)`", rows) for word in cell.split(" ")}
    named = {word.strip(":") for word in shown if re.fullmatch(r"[a-z_]{3,}:?", word)} | {"n"}
    values = {"default", "tools", "null", "false", "true"}
    assert named - values - known == set()
    assert {name for name in known if name not in PAGE} <= {
        *("best_of", "add_special_tokens", "skip_special_tokens"),
        *("spaces_between_special_tokens", "include_stop_str_in_output"),
    }


def test_flags_of_the_page_are_settings():
    flags = {flag_of(name) for name in ROWS} | {"--config"}
    shown = set(re.findall(r"(--[a-z][a-z-]+)", PAGE))
    others = {"--build", "--trust-request-mm-kwargs", "--structured-outputs-config"}
    assert shown - flags - others == set()
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert {name.replace("-", "_") for name in yaml.safe_load(settings)} <= set(ROWS)


def test_limits_of_the_page_are_the_defaults():
    settings = ServeSettings()
    table = _table("limit")
    for number in (settings.max_images, settings.max_queue, settings.max_num_seqs):
        assert f" {number} " in table or f"{number}," in table
    assert settings.max_body == 64 * 2**20
    assert settings.max_pixels == 50_000_000
    assert int(settings.timeout) == 600


def test_metrics_of_the_page_exist():
    metrics = Metrics(models=["nano"])
    metrics.request_error("queue_full")
    metrics.parameter_ignored("mirostat")
    text = metrics.render()[0].decode()
    names = set(re.findall(r"^# TYPE (?:minicpmv:)?(\w+)", text, flags=re.MULTILINE))
    shown = set(re.findall(r"`(\w+)(?:\{\w+\})?`", _table("metric")))
    assert shown - names - {"stop", "length", "time", "usage", "client_gone"} == set()
    ours = {name for name in names if f"minicpmv:{name}" in text}
    assert ours - shown <= {"num_preemptions_total"}


def _table(head):
    """The table whose head begins with this word."""
    start = PAGE.index(f"\n| {head} |")
    return PAGE[start : PAGE.index("\n\n", start)]


def test_every_code_of_an_error_is_told_with_its_status():
    (table,) = re.findall(r"^\| status \| code .*?\n\n", PAGE, flags=re.MULTILINE | re.DOTALL)
    told = set()
    for line in table.strip().splitlines()[2:]:
        statuses, codes, _ = line.strip("|").split("|", 2)
        told |= {
            (status.strip(), code)
            for status in statuses.split(",")
            for code in re.findall(r"`(\w+)`", codes)
        }
    made = re.compile(r'ApiError\(\s*(\d+),\s*"(\w+)"')
    sources = (ROOT / "minicpmv/serve").rglob("*.py")
    found = {each for file in sources for each in made.findall(file.read_text(encoding="utf-8"))}
    assert len(found) > 20
    assert found - told == set()
    assert {code for _, code in told} == {code for _, code in found}
