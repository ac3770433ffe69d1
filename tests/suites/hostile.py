"""Send hostile requests to a server that runs: python tests/suites/hostile.py [options]

Each must be refused with one clear error, the server must stay as it was, and neither a port of
loopback nor a file of this machine may be touched. The server must run on this machine and allow
neither private addresses nor files, as it does by default:

    minicpmv serve --port 8000 &
    python tests/suites/hostile.py --base-url http://127.0.0.1:8000 --count 2000
"""

import argparse
import collections
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import httpx2 as httpx
except ImportError:
    import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.helpers.hostile import CHAT, Case, Trap, cases, complaint
from tests.helpers.media_requests import encoded
from tests.helpers.media_server import MediaServer


def main() -> int:
    parser = argparse.ArgumentParser(description="Send hostile requests to a server.")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--count", type=int, default=2000, help="how many different requests")
    parser.add_argument("--clients", type=int, default=8, help="how many at a time")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    headers = {"authorization": f"Bearer {arguments.api_key}"} if arguments.api_key else {}
    client = httpx.Client(base_url=arguments.base_url, headers=headers, timeout=60, trust_env=False)
    try:
        httpx.get(f"{arguments.base_url}/health", timeout=60, trust_env=False)
    except httpx.HTTPError as error:
        message = f"{arguments.base_url} does not answer: {error}. Start a server there."
        raise SystemExit(message) from None
    wrong: list[str] = []
    statuses: collections.Counter[int] = collections.Counter()
    slowest = 0.0

    def send(case: Case) -> None:
        nonlocal slowest
        begin = time.perf_counter()
        try:
            answer = client.post(case.path, content=case.body, headers=case.headers)
        except httpx.HTTPError as error:
            wrong.append(f"{case.name}: {error!r} for {case.path} {case.body[:200]!r}")
            return
        slowest = max(slowest, time.perf_counter() - begin)
        statuses[answer.status_code] += 1
        kind = answer.headers.get("content-type", "")
        found = complaint(answer.status_code, kind, answer.text, case.path)
        if found is not None:
            wrong.append(f"{case.name}: {found} for {case.path} {case.body[:200]!r}")

    with tempfile.TemporaryDirectory() as folder, MediaServer() as trap, client:
        file = Path(folder) / "secret.png"
        file.write_bytes(encoded("red"))
        drawn = cases(arguments.seed, arguments.count, Trap(trap.port, str(file)), arguments.model)
        with ThreadPoolExecutor(arguments.clients) as pool:
            list(pool.map(send, drawn))
        messages = [{"role": "user", "content": "Hi"}]
        body = {"model": arguments.model, "messages": messages, "max_tokens": 1}
        alive = client.post(CHAT, json=body).status_code
    for line in wrong:
        print(line)
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    print(f"{arguments.count} requests: {counts}; slowest {slowest:.2f} s")
    print(f"{len(wrong)} wrong; trap asked {len(trap.asked)} times; alive afterwards: {alive}")
    return int(bool(wrong or trap.asked or alive != 200))


if __name__ == "__main__":
    raise SystemExit(main())
