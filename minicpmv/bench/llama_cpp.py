"""llama.cpp as a subject: a server of one model, asked over its HTTP interface.

Text is given as token ids, so the model's vocabulary does not matter. The server's own clock gives
prompt and decode times; a picture's first token is timed from outside, since the server's clock
begins after the picture was cut. Encoding alone is what `llama-mtmd-cli` prints.
"""

import base64
import io
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..child_servers import end, free_port, wait_until_ready
from .cases import CONTEXT, NEW_TOKENS, PICTURES, STREAM_CONTEXT, Sample
from .prompts import picture, words

FOLDER = "LLAMA_CPP_DIR"
SERVER, ENCODER = "llama-server", "llama-mtmd-cli"
_MARKER = "<__picture__>"  # where the picture goes
_TOKENS_PER_STREAM = 1024
_START_S = 300
_STOP_S = 30
_ENCODED = re.compile(r"(?:image slice encoded|mtmd batch encoding done) in (\d+) ms")


def program(name: str) -> str | None:
    """A program of llama.cpp in the folder that LLAMA_CPP_DIR names, else on the PATH."""
    folder = os.environ.get(FOLDER)
    if folder:
        places = (Path(folder, *parts, name) for parts in ((), ("bin",), ("build", "bin")))
        return next((str(place) for place in places if os.access(place, os.X_OK)), None)
    return shutil.which(name)


def find_server() -> str:
    """The server's path.

    Raises:
        OSError: there is none; the line says how to get it.
    """
    found = program(SERVER)
    if found is None:
        folder = os.environ.get(FOLDER)
        place = f"in {FOLDER}={folder!r}" if folder else "on the PATH"
        raise OSError(
            f"There is no {SERVER} {place}, and no llama-cpp-python. Install llama.cpp (a package "
            f"of your system, or a build of its sources), or let {FOLDER} name the folder of its "
            "programs; pip install llama-cpp-python is enough for prefill and decode."
        )
    return found


def token_ids(vocabulary: int, count: int, seed: int) -> list[int]:
    """A prompt of random tokens, from the upper half, where there are no special ones."""
    return random.Random(seed).choices(range(vocabulary // 2, vocabulary), k=count)


class LlamaCppSubject:
    """A running `llama-server`.

    Args:
        model, mmproj: GGUF files; without the second no pictures.
        streams: how many requests it answers at once.
        more: further options of the server.

    Raises:
        OSError: there is no such program or file, or it does not start.
    """

    def __init__(
        self,
        model: Path,
        mmproj: Path | None,
        streams: int,
        threads: int,
        more: Sequence[str] = (),
    ):
        for file in filter(None, (model, mmproj)):
            if not file.is_file():
                raise OSError(f"There is no file {str(file)!r}.")
        self.model, self.mmproj, self.streams, self.threads = model, mmproj, streams, threads
        self.name = "llama.cpp"
        self._temporary = tempfile.TemporaryDirectory(prefix="minicpmv-bench-")
        self._log = Path(self._temporary.name, "server.log")
        server = find_server()
        self._address = f"http://127.0.0.1:{free_port()}"
        command = [server, "--model", str(model), "--host", "127.0.0.1"]
        command += ["--port", self._address.rpartition(":")[2], "--no-ui", "--cache-ram", "0"]
        command += ["--parallel", str(streams), "--ctx-size", str(_TOKENS_PER_STREAM * streams)]
        command += [*self._shared_flags(), *more]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "LLAMA_MEDIA_MARKER": _MARKER},
            )
        begin = time.perf_counter()
        try:
            self._wait_until_ready()
            self._vocabulary = self._vocabulary_size()
        except BaseException:
            self.close()
            raise
        self.facts = {
            "load_seconds": time.perf_counter() - begin,
            "version": _version(server),
            "file": model.name,
            "file_bytes": model.stat().st_size,
            "threads": threads,
        }

    @property
    def process_id(self) -> int:
        """Of the server."""
        return self._process.pid

    def first_token(self, num_tokens: int) -> dict[str, Any]:
        """Its own timings of an answer of one token to a prompt of random ones."""
        timings: dict[str, Any] = self._complete(self._ids(num_tokens, 0), 1)["timings"]
        return timings

    def can(self, run: str) -> bool:
        """Whether it has what a run needs."""
        if run == "encode":
            return self.mmproj is not None and program(ENCODER) is not None
        return self.mmproj is not None or not run.startswith("picture")

    def measure(self, run: str, wanted: Sequence[str], seed: int) -> dict[str, Sample]:
        if run == "encode":
            return {"encode": self._encode(seed)}
        if run == "text":
            return self._text(wanted, seed)
        if run == "streams":
            return {"streams": self._streams(seed)}
        side = run.removeprefix("picture-")
        prompts = [self._picture_prompt(PICTURES[side], seed, question) for question in (0, 1)]
        names = [f"first-{side}", f"second-{side}"]
        return {
            name: self._first_token(prompt)
            for name, prompt in zip(names, prompts, strict=True)
            if name in wanted or name == names[0]
        }

    def peak_bytes(self) -> int | None:
        """The model's file is mapped into memory and counted."""
        status = Path(f"/proc/{self._process.pid}/status")
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        except OSError:
            return None
        return int(found[1]) * 1024 if found else None

    def close(self) -> None:
        end(self._process, _STOP_S)
        self._temporary.cleanup()

    def _encode(self, seed: int) -> Sample:
        """Of one slice, in a process of its own; its model is read from the page cache."""
        encoder = program(ENCODER)
        assert encoder is not None
        file = Path(self._temporary.name, "picture.bmp")
        picture(PICTURES["448"], seed).save(file)
        command = [encoder, "--model", str(self.model), "--image", str(file), "--prompt", "a"]
        command += ["--predict", "1", "--ctx-size", str(_TOKENS_PER_STREAM), "--temp", "0"]
        command += ["--chat-template", "chatml", *self._shared_flags()]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        output = (done.stdout + done.stderr).decode(errors="replace")
        found = _ENCODED.findall(output)
        if not found:
            last = (output.strip().splitlines() or ["nothing was printed"])[-1]
            raise OSError(f"{encoder} encoded no picture (exit code {done.returncode}): {last}")
        return Sample(int(found[-1]) / 1000)

    def _text(self, wanted: Sequence[str], seed: int) -> dict[str, Sample]:
        number = 1 + NEW_TOKENS * ("decode" in wanted)
        before = self._cpu_seconds()
        timings = self._complete(self._ids(CONTEXT, seed), number)["timings"]
        cpu = self._cpu_seconds() - before
        prompt, decode = timings["prompt_ms"] / 1000, timings["predicted_ms"] / 1000
        share = prompt / (prompt + decode)
        found = {
            "prefill": Sample(prompt, cpu * share, timings["prompt_n"]),
            "decode": Sample(decode, cpu * (1 - share), timings["predicted_n"] - 1),
        }
        return {name: found[name] for name in wanted}

    def _streams(self, seed: int) -> Sample:
        """As `ChatSubject`: prompts that were asked before, decoded together."""
        prompts = [self._ids(STREAM_CONTEXT, 1000 * seed + i) for i in range(self.streams)]

        def ask(slot: int, number: int) -> tuple[float, float, int]:
            answer = self._complete(prompts[slot], number, slot=slot)
            end, timings = time.perf_counter(), answer["timings"]
            return end - timings["predicted_ms"] / 1000, end, timings["predicted_n"] - 1

        with ThreadPoolExecutor(self.streams) as pool:
            list(pool.map(lambda slot: ask(slot, 1), range(self.streams)))
            before = self._cpu_seconds()
            found = list(pool.map(lambda slot: ask(slot, 1 + NEW_TOKENS), range(self.streams)))
        cpu = self._cpu_seconds() - before
        begins, ends, tokens = zip(*found, strict=True)
        return Sample(max(ends) - min(begins), cpu, sum(tokens))

    def _first_token(self, prompt: Any) -> Sample:
        cpu, begin = self._cpu_seconds(), time.perf_counter()
        self._complete(prompt, 1, slot=0)
        return Sample(time.perf_counter() - begin, self._cpu_seconds() - cpu)

    def _picture_prompt(self, side: int, seed: int, question: int) -> dict[str, Any]:
        data = io.BytesIO()
        picture(side, seed).save(data, "BMP")  # nothing to decompress
        text = base64.b64encode(data.getvalue()).decode()
        prompt = f"{_MARKER}\n{words(8, seed + question)}"
        return {"prompt_string": prompt, "multimodal_data": [text]}

    def _complete(self, prompt: Any, number: int, slot: int | None = None) -> dict[str, Any]:
        """An answer of so many tokens; in a slot, what it knows of the prompt is used."""
        request = {
            "prompt": prompt,
            "n_predict": number,
            "ignore_eos": True,
            "temperature": 0,
            "cache_prompt": slot is not None,
            "id_slot": -1 if slot is None else slot,
        }
        return self._request("/completion", request)

    def _ids(self, count: int, seed: int) -> list[int]:
        return token_ids(self._vocabulary, count, seed)

    def _vocabulary_size(self) -> int:
        models = self._request("/v1/models")
        return int(models["data"][0]["meta"]["n_vocab"])

    def _request(self, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, headers)
        try:
            with urllib.request.urlopen(request) as reply:
                found: dict[str, Any] = json.load(reply)
        except urllib.error.HTTPError as error:
            said = " ".join(error.read().decode(errors="replace").split())
            raise OSError(f"{SERVER} refused {path}: {said}") from error
        return found

    def _wait_until_ready(self) -> None:
        if wait_until_ready(self._process, f"{self._address}/health", _START_S):
            return
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        wrong = [line for line in lines if " E " in line or "error" in line.lower()]
        said = (wrong or lines or ["it printed nothing"])[-1]
        raise OSError(f"{SERVER} did not start with {str(self.model)!r}: {said}")

    def _shared_flags(self) -> list[str]:
        flags = ["--threads", str(self.threads), "--threads-batch", str(self.threads)]
        return flags if self.mmproj is None else [*flags, "--mmproj", str(self.mmproj)]

    def _cpu_seconds(self) -> float:
        import psutil

        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)


def _version(server: str) -> str:
    done = subprocess.run([server, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version: (.+)", done.stdout + done.stderr)
    return found[1].strip() if found else "unknown"
