"""Run transformers' common model suites on our classes: python tests/suites/run.py [pytest options]

Downloads the source distribution of the transformers that is installed, whose `tests/test_*.py`
are the suites; adds what it leaves out and our parts (below); runs pytest there. Needs the network
once, `parameterized`, and pytest; nothing of theirs is kept in this repository.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

HERE = Path(__file__).parent

# Files of ours, and the places where the suites look for them.
OURS = {
    "modeling.py": "tests/models/minicpmv/test_modeling_minicpmv.py",
    "processing.py": "tests/models/minicpmv/test_processing_minicpmv.py",
    "image_processing.py": "tests/models/minicpmv/test_image_processing_minicpmv.py",
    # Of these the source distribution carries none; they are written after their interface.
    "generation.py": "tests/generation/test_utils.py",
    "distributed.py": "tests/distributed_testing_utils.py",
    "media.py": "utils/fetch_hub_objects_for_ci.py",
}
# Modules that the suites import and the source distribution does not carry.
LEFT_OUT = {
    # torch.export is tested in tests/model/test_compile.py; this suite is of other exporters.
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": (
        "config_common_kwargs = {'return_dict': False, 'output_hidden_states': True,\n"
        "    'dtype': 'float16', 'chunk_size_feed_forward': 5, 'problem_type': 'regression'}\n"
    ),
}


def prepare(folder: Path) -> Path:
    """Unpack the suites into `folder` and add our part; returns the folder to run."""
    name = f"transformers-{transformers.__version__}"
    download = ["pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    requirement = name.replace("-", "==")
    subprocess.run([sys.executable, "-m", *download, requirement, "-d", folder], check=True)
    with tarfile.open(folder / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    root = folder / name
    tests = root / "tests"
    for path, text in LEFT_OUT.items():
        (tests / path).parent.mkdir(exist_ok=True)
        (tests / path).write_text(text)
    for name, place in OURS.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / name, root / place)
    for package in (tests, *(path for path in tests.rglob("*") if path.is_dir())):
        (package / "__init__.py").touch()
    return root


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = prepare(Path(folder))
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-W", "ignore"]
        command.append("tests/models/minicpmv")
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "RUN_TRAINING_TESTS": "1",
            "RUN_TENSOR_PARALLEL_TESTS": "1",
            "MINICPMV_GOLDEN": str(HERE.parent / "golden"),
        }
        return subprocess.run([*command, *sys.argv[1:]], cwd=root, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
