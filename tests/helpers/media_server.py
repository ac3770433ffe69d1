"""Pictures and videos over http from loopback, and addresses that are slow on purpose."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class MediaServer:
    """Serves `files` by path; a path in `slow` is answered once its event is set.

    Attributes:
        asked: paths of all requests, in order.
        waiting: set when a slow path has been asked for.
        left: set when a client of a slow path has gone before it was answered.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.slow: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        self.waiting = threading.Event()
        self.left = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                if self.path in server.slow:
                    server.waiting.set()
                    if not server.slow[self.path].is_set():
                        self._wait(server.slow[self.path])
                self.send_response(200 if self.path in server.files else 404)
                self.end_headers()
                self.wfile.write(server.files.get(self.path, b""))

            def _wait(self, event: threading.Event) -> None:
                def watch() -> None:
                    try:
                        if not self.connection.recv(1):
                            server.left.set()
                            event.set()
                    except OSError:
                        server.left.set()

                threading.Thread(target=watch, daemon=True).start()
                event.wait()

            def log_message(self, *args: object) -> None:
                """Tests are quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def __enter__(self) -> "MediaServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for event in self.slow.values():
            event.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def served(**files: bytes) -> Iterator[MediaServer]:
    """A server of files by name: `served(a=...)` answers `/a`."""
    with MediaServer() as server:
        server.files.update({f"/{name}": data for name, data in files.items()})
        yield server
