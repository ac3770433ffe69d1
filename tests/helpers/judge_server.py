"""A judge on loopback that answers as it is told, one scripted step after the other."""

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Step:
    """One answer: a text, or a status with headers and a body, or none (`hangs`)."""

    def __init__(self, text=None, *, status=200, headers=None, body=None, hangs=False, **message):
        self.status, self.headers, self.hangs = status, headers or {}, hangs
        if body is None:
            finish = message.pop("finish_reason", "stop")
            message = {"role": "assistant", "content": text, **message}
            body = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


def refused(status, message, code=None, **headers):
    """An error of OpenAI's form."""
    error = {"error": {"message": message, "code": code}}
    return Step(status=status, body=error, headers=headers)


class JudgeServer:
    """`steps`: what comes, in turn, the last again and again; or a function of the prompt."""

    models: Step | None = None  # what is said of them in place of one

    def __init__(self, steps: list[Step] | Callable[[str], Step], model: str = "the-judge"):
        self.steps, self.model = steps, model
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self._lock = threading.Lock()
        self._over = threading.Event()

    def _next(self, body):
        with self._lock:
            self.asked.append(body)
            if callable(self.steps):
                return self.steps(body["messages"][-1]["content"])
            return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]

    @contextlib.contextmanager
    def running(self):
        """The address of the judge, while it runs in a thread."""
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                self._send(judge.models or Step(body={"data": [{"id": judge.model}]}))

            def do_POST(self):
                size = int(self.headers["content-length"])
                judge.keys.append(self.headers.get("authorization"))
                step = judge._next(json.loads(self.rfile.read(size)))
                if step.hangs:
                    judge._over.wait(30)
                    self.close_connection = True
                    return
                self._send(step)

            def _send(self, step):
                self.send_response(step.status)
                for name, value in step.headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(step.body)))
                self.end_headers()
                self.wfile.write(step.body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            self._over.set()
            server.shutdown()
            thread.join()
            server.server_close()
