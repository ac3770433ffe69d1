"""A stand-in for llama.cpp's programs: it answers as they do, and computes nothing."""

import sys

import pytest

SERVER = """#!{python}
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if "--version" in sys.argv:
    print("version: 1234 (abcdef)")
    raise SystemExit
flags = dict(zip(sys.argv[1:], sys.argv[2:]))
if "broken" in flags["--model"]:
    print("error: this is no model", file=sys.stderr)
    raise SystemExit(1)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{"data": [{{"meta": {{"n_vocab": 512}}}}]}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if isinstance(asked["prompt"], list):
            assert all(256 <= token < 512 for token in asked["prompt"])
            count = len(asked["prompt"])
        else:
            assert "<__picture__>" in asked["prompt"]["prompt_string"]
            assert "--mmproj" in flags and asked["prompt"]["multimodal_data"]
            count = 80
        assert asked["ignore_eos"] and asked["temperature"] == 0
        number = asked["n_predict"]
        timings = {{"prompt_n": count, "prompt_ms": 2.0 * count}}
        timings |= {{"predicted_n": number, "predicted_ms": 10.0 * (number - 1)}}
        self.answer({{"timings": timings}})

    def answer(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


ThreadingHTTPServer((flags["--host"], int(flags["--port"])), Handler).serve_forever()
"""

ENCODER = """#!{python}
import sys

assert "--mmproj" in sys.argv
print("encoding image slice...", file=sys.stderr)
print("mtmd batch encoding done in 250 ms", file=sys.stderr)
"""


@pytest.fixture
def llama_cpp(tmp_path, monkeypatch):
    """Programs in a folder that LLAMA_CPP_DIR names, and two files for them."""
    folder = tmp_path / "llama"
    folder.mkdir()
    for name, text in (("llama-server", SERVER), ("llama-mtmd-cli", ENCODER)):
        program = folder / name
        program.write_text(text.format(python=sys.executable), encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(folder))
    files = [tmp_path / "model.gguf", tmp_path / "mmproj.gguf"]
    for file in files:
        file.write_bytes(b"GGUF")
    return files
