"""A page in Debian's Chromium, driven by Playwright, with an eye on all that it does beside."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading

from minicpmv.child_servers import free_port

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@contextlib.contextmanager
def page_process(*flags):
    """`minicpmv ui` in a process group of its own; its address, once it has said it."""
    port = free_port()
    words = [sys.executable, "-W", "ignore", "-m", "minicpmv", "ui", "--port", str(port), *flags]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, start_new_session=True, env=dict(os.environ)
    )
    said = []
    is_ready = threading.Event()

    def read():
        for line in process.stderr:
            said.append(line)
            if "page at" in line:
                is_ready.set()
        is_ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert is_ready.wait(120)
        assert any("page at" in line for line in said), said
        yield f"http://127.0.0.1:{port}/", process
    except BaseException:
        print(*said, sep="")
        raise
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        reader.join()
        process.stderr.close()


class Watch:
    """What a page should not do: errors in the console, failed requests, other hosts."""

    def __init__(self, page, address):
        self.faults = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", lambda request: self._request(request.url, address))
        page.on("response", lambda response: self._response(response))

    def _console(self, message):
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _request(self, url, address):
        if not url.startswith((address, "data:", "blob:")):
            self.faults.append(f"elsewhere: {url}")

    def _response(self, response):
        if response.status >= 400:
            self.faults.append(f"{response.status}: {response.url}")
