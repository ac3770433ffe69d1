"""The house's rules, read from the syntax trees: imports run one way, no circles, no long files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minicpmv"
# A room may import those before it and those beside it; nothing after it.
ORDER = [
    {
        "version",
        "moved",
        "releases",
        "quiet",
        "errors",
        "addresses",
        "appending",
        "durable",
        "child_servers",
        "worker_processes",
        "devices",
        "precision",
        "progress",
    },
    {"kernels"},
    {"media", "checkpoint", "quantization", "gguf"},
    {"model", "processing"},
    {"auto", "integrations", "newer_releases"},
    {"engine"},
    {
        *("chat", "decisions", "conversation", "conversation_file", "loader", "adapters"),
        *("released_api", "released_auto", "released_encoding"),
    },
    {"scenes", "export", "inspection", "data"},
    {"train", "evaluate", "verify", "bench"},
    {"serve", "batch"},
    {"cli"},
]
PLACES = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
STRANGERS = {("model", "processing"), ("processing", "model")}  # beside, and not acquainted
WHEN_CALLED = {
    # Installed by auto.py; needs the loaders only when an adapter of a model with chat() is loaded.
    ("minicpmv.integrations.peft", "minicpmv.released_auto"),
    # Evaluation programs of others load our models.
    ("minicpmv.integrations.lmms_eval.model", "minicpmv.chat"),
    ("minicpmv.integrations.lmms_eval.model", "minicpmv.decisions.answers"),
    ("minicpmv.integrations.lmms_eval.model", "minicpmv.engine.answer"),
    ("minicpmv.integrations.lmms_eval.model", "minicpmv.loader"),
    ("minicpmv.integrations.vlmevalkit", "minicpmv.chat"),
    ("minicpmv.integrations.vlmevalkit", "minicpmv.evaluate.answering"),
    ("minicpmv.integrations.vlmevalkit", "minicpmv.evaluate.asking"),
    ("minicpmv.integrations.vlmevalkit", "minicpmv.evaluate.items"),
    ("minicpmv.integrations.vlmevalkit", "minicpmv.evaluate.page"),
    ("minicpmv.integrations.vlmevalkit", "minicpmv.evaluate.upsizing"),
    ("minicpmv.integrations.vlmevalkit", "minicpmv.loader"),
    # Trainers of others are handed our training data when they call for them.
    ("minicpmv.integrations.trl", "minicpmv.data.collate"),
    ("minicpmv.integrations.trl", "minicpmv.data.encode"),
    ("minicpmv.integrations.trl", "minicpmv.data.faults"),
    ("minicpmv.integrations.trl", "minicpmv.data.fields"),
    ("minicpmv.integrations.trl", "minicpmv.data.formats.hugging_face"),
    ("minicpmv.integrations.trl", "minicpmv.data.media_fields"),
    ("minicpmv.integrations.trl", "minicpmv.data.pictures"),
    ("minicpmv.integrations.swift_native", "minicpmv.data.collate"),
    ("minicpmv.integrations.swift_native", "minicpmv.data.encode"),
    ("minicpmv.integrations.swift_native", "minicpmv.data.faults"),
    ("minicpmv.integrations.swift_native", "minicpmv.data.fields"),
    ("minicpmv.integrations.swift_native", "minicpmv.data.formats.swift"),
    ("minicpmv.integrations.swift_native", "minicpmv.data.media_fields"),
    ("minicpmv.integrations.swift_native", "minicpmv.data.messages"),
    ("minicpmv.integrations.swift_native", "minicpmv.data.pictures"),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def imports_of(file: Path, *, at_import: bool = False) -> set[str]:
    """Modules of ours that a file imports; with `at_import` those that are needed to load it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in _loaded(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module_of(file).split(".")
            if file.name != "__init__.py":
                package = package[:-1]
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    return found & MODULES.keys() - {module_of(file)}


def _loaded(node: ast.AST) -> list[ast.AST]:
    """Nodes that run when the module is loaded: no bodies of functions, nothing for types only."""
    found = [node]
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not is_for_types and not isinstance(child, ast.FunctionDef | ast.Lambda):
            found += _loaded(child)
    return found


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_room_has_its_place():
    rooms = {room_of(module) for module in MODULES} - {"", "__main__"}
    assert rooms == set(PLACES)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_run_one_way(file):
    room = room_of(module_of(file))
    if room in ("", "__main__"):
        pytest.skip("the doors of the package")
    for imported in imports_of(file):
        if (module_of(file), imported) in WHEN_CALLED:
            continue
        target = room_of(imported)
        if not target:
            assert room == "cli", f"{module_of(file)} imports the package's door; name the module."
            continue  # it prints the version
        message = f"{module_of(file)} imports {imported}, which stands after it."
        assert PLACES[target] <= PLACES[room], message
        assert (room, target) not in STRANGERS, f"{module_of(file)} imports {imported}."


def test_no_modules_import_each_other_in_a_circle():
    edges = {name: imports_of(file, at_import=True) for name, file in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in edges:
        visit(name, [])


@pytest.mark.parametrize("folder", ["minicpmv", "tests"])
def test_no_file_is_over_500_lines(folder):
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in (ROOT / folder).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_no_test_imports_another() -> None:
    """What two tests share is a fixture of a conftest.py, or in `tests/helpers/`."""
    files = [file for file in (ROOT / "tests").rglob("*.py") if "suites" not in file.parts]
    assert len(files) > 100
    shared = [
        f"{file.relative_to(ROOT)} imports {node.module}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level and node.module
        if node.module.rpartition(".")[2].startswith(("test_", "conftest"))
    ]
    assert shared == []
