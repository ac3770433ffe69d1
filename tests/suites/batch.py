"""Batches that are killed, on processes and on a Ray cluster: python tests/suites/batch.py

Answers a file of questions about drawn pictures in one go; then with the process killed again and
again at random, alone and with worker processes, with processes and with servers of which one is
killed, and on a local Ray cluster of three nodes of
which one is killed in the middle (`pip install "minicpmv[ray]"`; left out without it). Every way
must give one result for each row, in their order, and the same answers.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from minicpmv.batch.command import Place, run_batch
from minicpmv.batch.rows import RequestFile
from minicpmv.child_servers import free_port
from minicpmv.scenes import render

QUESTIONS = (
    "How many shapes are there?",
    "What colour is the largest shape?",
    "Is there a circle?",
)
MINICPMV = (sys.executable, "-m", "minicpmv")


def draw(folder: Path, count: int) -> Path:
    """A file of `count` requests about its pictures."""
    lines = []
    for n in range(count):
        picture = f"{n // 4}.png"
        if not (folder / picture).exists():
            render(n // 4, "test", kind="few").image.save(folder / picture)
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": f"{QUESTIONS[n % 3]} {n}"},
        ]
        body = {
            "temperature": 0,
            "max_tokens": 16,
            "messages": [{"role": "user", "content": content}],
        }
        lines.append({"custom_id": f"row {n}", "url": "/v1/chat/completions", "body": body})
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def results(path: Path) -> list[tuple[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (each["custom_id"], each["response"]["body"]["choices"][0]["message"]["content"])
        for each in found
    ]


def killed(requests: Path, out: Path, seed: int, *flags: str) -> str:
    """The command, killed at random until it ends by itself; its processes end with it."""
    draw_time, kills = random.Random(seed), 0
    while True:
        process = subprocess.Popen(
            [*MINICPMV, "batch", str(requests), str(out), *flags], stderr=subprocess.DEVNULL
        )
        part = out.with_name(f"{out.name}.part")
        more, started = draw_time.randrange(5, 60), []
        before = part.read_bytes().count(b"\n") if part.exists() else 0
        while process.poll() is None:
            if part.exists() and part.read_bytes().count(b"\n") > before + more:
                started = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                kills += 1
                break
            time.sleep(0.01)
        code = process.wait()
        _, left = psutil.wait_procs(started, timeout=30)
        if left:
            raise AssertionError(f"{len(left)} processes outlive the one that started them")
        if code == 0:
            return f"killed {kills} times"


def in_processes(requests: Path, out: Path) -> str:
    """Two processes, of which one is killed in the middle."""
    place = Place(models={"model": ("nano",)}, workers=2)
    return _killing(requests, out, place, lambda: psutil.Process().children()[0].kill())


def served(requests: Path, out: Path) -> str:
    """Two servers, of which one is killed in the middle."""
    ports = [free_port() for _ in range(2)]
    servers = [
        subprocess.Popen(
            [*MINICPMV, "serve", "--port", str(port)],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for port in ports
    ]
    try:
        _wait_for(ports)
        urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
        place = Place(base_urls=urls, concurrency=8)
        return _killing(requests, out, place, lambda: servers[0].send_signal(signal.SIGKILL))
    finally:
        for server in servers:
            server.kill()
            server.wait()


def on_ray(requests: Path, out: Path) -> str:
    """Three nodes, of which one is killed in the middle."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    try:
        nodes = [cluster.add_node(num_cpus=1, **memory) for _ in range(2)]
        place = Place(models={"model": ("nano",)}, ray=cluster.address, workers=3)
        return _killing(
            requests, out, place, lambda: cluster.remove_node(nodes[0], allow_graceful=False)
        )
    finally:
        cluster.shutdown()


def _killing(requests: Path, out: Path, place: Place, kill: Callable[[], Any]) -> str:
    killer = threading.Thread(target=kill)
    at: list[int] = []

    def show(done: int, total: int, failed: int) -> None:
        if done >= total // 3 and not at:
            at.append(done)
            killer.start()

    run_batch(RequestFile(requests, model="nano"), out, place, on_progress=show)
    killer.join()
    return f"one killed after {at[0]} rows"


def _wait_for(ports: Sequence[int]) -> None:
    for port in ports:
        for _ in range(1200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requests = draw(folder, args.rows)
        subprocess.run([*MINICPMV, "batch", str(requests), str(folder / "one.jsonl")], check=True)
        expected = results(folder / "one.jsonl")
        ways: dict[str, Callable[[Path], str]] = {
            "one process": lambda out: killed(requests, out, args.seed),
            "three processes": lambda out: killed(requests, out, args.seed, "--workers", "3"),
            "two processes": lambda out: in_processes(requests, out),
            "two servers": lambda out: served(requests, out),
        }
        try:
            import ray  # noqa: F401

            ways["three nodes of Ray"] = lambda out: on_ray(requests, out)
        except ModuleNotFoundError:
            print('three nodes of Ray: left out; pip install "minicpmv[ray]"')
        for way, answer in ways.items():
            out = folder / f"{way}.jsonl"
            told = answer(out)
            same = results(out) == expected
            failed += not same
            print(f"{way}: {told}; {'the same results' if same else 'OTHER RESULTS'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
