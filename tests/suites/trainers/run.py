"""Run other projects' trainers on our models: python tests/suites/trainers/run.py

Installs each, at the versions below, into an environment of its own in a temporary folder (several
GB with PyTorch; PyPI), and has it train for two steps on pictures: the bundled model and the tiny
recorded checkpoints. Prints a table; exits with 1 if a case failed.

    --only NAME     one environment
    --models A,B    some of nano, 2.6, 2.5, 2.0, 1.0, 2B
    --folder PATH   keep what is installed there, and use it the next time
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

# Environments: the scripts that run in them, and what they need beside this package.
ENVIRONMENTS = {
    "trl": (
        ["trl_sft.py", "trl_text.py", "trl_dpo.py", "trl_grpo.py", "trl_curve.py"],
        ["trl==1.16.0", "transformers==5.23.*"],
    ),
    "swift": (["swift_cases.py"], ["ms-swift==4.6.0", "transformers==5.19.*"]),
}
_MOST_SECONDS = 1800


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(ENVIRONMENTS), help="one environment")
    parser.add_argument("--models", default="", help="some of the models, with commas")
    parser.add_argument("--folder", type=Path, help="keep what is installed there")
    options = parser.parse_args()
    names = [options.only] if options.only else list(ENVIRONMENTS)
    models = [name for name in options.models.split(",") if name]
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        for name in names:
            python = environment(folder / name, name)
            for script in ENVIRONMENTS[name][0]:
                results += results_of(python, script, models, folder / f"{name}-{script}.log")
    for row in table(results):
        print(row)
    problems = [result for result in results if result["problem"]]
    for result in problems:
        print(f"\n{result['client']}, {result['case']}: {result['problem']}")
    print(f"\n{len(results) - len(problems)} of {len(results)} cases passed.")
    return 1 if problems or not results else 0


def environment(place: Path, name: str) -> Path:
    """The Python of an environment, which is made if it is not there."""
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        # pytest: helpers of the tests, which the scripts share, import it.
        command = [python, "-m", "pip", "install", "--quiet", "pytest", f"{ROOT}[train]"]
        install = [*command, *ENVIRONMENTS[name][1]]
        subprocess.run(install, check=True, env=os.environ | {"PYTHONPATH": ""})
    return python


def results_of(python: Path, script: str, models: list[str], log: Path) -> list[dict[str, str]]:
    """What one script found, and that it ended well."""
    # Some of these libraries write notices to the standard output, too.
    path = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "USE_HF": "1"}
    with log.open("wb") as errors:
        done = subprocess.run(
            [python, HERE / script, *models],
            env=os.environ | path,
            stdout=subprocess.PIPE,
            stderr=errors,
            timeout=_MOST_SECONDS,
            check=False,
        )
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith('{"client"')]
    found = [json.loads(line) for line in lines]
    if done.returncode or not (found or models):
        reason = log.read_text().strip().splitlines()[-1:] or ["nothing was said"]
        problem = f"the script ended with {done.returncode}: {reason[0]}"
        found.append({"client": script, "case": "script", "problem": problem})
    return found


def table(results: list[dict[str, str]]) -> Iterator[str]:
    """A row for each trainer, a column for each model."""
    clients = list(dict.fromkeys(result["client"] for result in results))
    cases = list(dict.fromkeys(result["case"] for result in results))
    marks = {
        (result["client"], result["case"]): "FAIL" if result["problem"] else "ok"
        for result in results
    }
    width = max(map(len, clients), default=0)
    yield "  ".join([" " * width, *cases])
    for client in clients:
        cells = [marks.get((client, name), "-").ljust(len(name)) for name in cases]
        yield "  ".join([client.ljust(width), *cells]).rstrip()


if __name__ == "__main__":
    sys.exit(main())
