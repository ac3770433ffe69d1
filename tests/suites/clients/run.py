"""Run real clients against `minicpmv serve`: python tests/suites/clients/run.py

Installs each client, at the versions below, into environments of their own in a temporary folder
(1.5 GB; PyPI and npm), starts `minicpmv serve` with the bundled model on a free port, and has every
client ask: plainly, streamed, about a picture, for JSON of a schema, for calls of functions, and
with a wrong parameter. Prints a table; exits with 1 if a case failed. Takes about three minutes,
most of them to install.

    --newest        the newest versions instead
    --folder PATH   keep what is installed there, and use it the next time
    --server URL    ask a running server instead; it serves the bundled model as "nano"
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PICTURE = ROOT / "examples" / "scene.png"

# Environments: the scripts that run in them, and what they need.
PYTHON = {
    "openai": (["openai_client.py"], ["openai==3.57.0"]),
    "anthropic": (["anthropic_client.py"], ["anthropic==2.14.0"]),
    "ollama": (["ollama_client.py"], ["ollama==0.6.3", "pydantic"]),
    "frameworks": (
        ["frameworks.py", "openai_client.py"],  # with the openai that these allow
        [
            "litellm==1.110.2",
            "langchain-openai==1.7.4",
            "llama-index-llms-openai-like==0.8.1",
            "instructor==1.17.0",
        ],
    ),
    "open-webui": (["open_webui.py"], []),
}
NODE = {
    "openai": "6.49.0",
    "ai": "6.0.326",
    "@ai-sdk/openai-compatible": "2.0.92",
    "@ai-sdk/openai": "3.0.141",
}
_START_S = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--newest", action="store_true", help="install the newest versions")
    parser.add_argument("--folder", type=Path, help="keep what is installed there")
    parser.add_argument("--server", help="ask this server instead of starting one")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        runs = [*python_runs(folder, options.newest), node_run(folder, options.newest)]
        server = options.server or stack.enter_context(a_server(folder))
        environment = os.environ | {
            "MINICPMV_TEST_SERVER": server.removesuffix("/"),
            "MINICPMV_TEST_PICTURE": str(PICTURE),
        }
        results = [result for run in runs for result in results_of(run, folder, environment)]
    for row in table(results):
        print(row)
    problems = [result for result in results if result["problem"]]
    for result in problems:
        print(f"\n{result['client']}, {result['case']}: {result['problem']}")
    print(f"\n{len(results) - len(problems)} of {len(results)} cases passed.")
    return 1 if problems else 0


def python_runs(folder: Path, is_newest: bool) -> list[list[str]]:
    """Install the Python clients; the commands that run them."""
    runs = []
    for name, (scripts, needs) in PYTHON.items():
        place = folder / name
        python = place / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
        if needs:
            packages = [need.partition("==")[0] if is_newest else need for need in needs]
            upgrade = ["--upgrade"] if is_newest else []
            command = [python, "-m", "pip", "install", "--quiet", *upgrade, *packages]
            subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": ""})
        runs += [[str(python), str(HERE / script)] for script in scripts]
    return runs


def node_run(folder: Path, is_newest: bool) -> list[str]:
    """Install the clients of npm; the command that runs them."""
    place = folder / "node"
    place.mkdir(exist_ok=True)
    script = place / "node_clients.mjs"  # modules are looked for beside the script
    script.write_bytes((HERE / script.name).read_bytes())
    packages = [f"{name}@{'latest' if is_newest else version}" for name, version in NODE.items()]
    (place / "package.json").write_text('{"private": true}')
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *packages]
    subprocess.run(command, check=True, cwd=place)
    return ["node", str(script)]


@contextlib.contextmanager
def a_server(folder: Path) -> Iterator[str]:
    """A server on a free port of the loop-back address, stopped at the end."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "minicpmv", "serve", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": path}, stdout=out, stderr=out
        )
        try:
            wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """
    Raises:
        SystemExit: the server ended, or did not answer in time.
    """
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health").close()
            return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise SystemExit(f"The server did not start:\n{log.read_text()}")


def results_of(
    command: list[str], folder: Path, environment: dict[str, str]
) -> list[dict[str, str]]:
    """What one script found, and that it ended well."""
    name = Path(command[-1]).name
    log = folder / f"{Path(command[0]).parent.parent.name}-{name}.log"
    # Some of these libraries write notices to the standard output, too.
    with log.open("wb") as errors:
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            timeout=600,
            check=False,
        )
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith('{"client"')]
    found = [json.loads(line) for line in lines]
    if done.returncode or not found:
        reason = log.read_text().strip().splitlines()[-1:] or ["nothing was said"]
        problem = f"the script ended with {done.returncode}: {reason[0]}"
        found.append({"client": name, "case": "script", "problem": problem})
    return found


def table(results: list[dict[str, str]]) -> Iterator[str]:
    """A row for each client, a column for each case."""
    clients = list(dict.fromkeys(result["client"] for result in results))
    cases = list(dict.fromkeys(result["case"] for result in results))
    marks = {
        (result["client"], result["case"]): "FAIL" if result["problem"] else "ok"
        for result in results
    }
    width = max(map(len, clients))
    yield "  ".join([" " * width, *cases])
    for client in clients:
        cells = [marks.get((client, name), "-").ljust(len(name)) for name in cases]
        yield "  ".join([client.ljust(width), *cells]).rstrip()


if __name__ == "__main__":
    sys.exit(main())
