"""`minicpmv batch` from file to file with nano, and the words for what is typed wrongly."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from minicpmv import load
from minicpmv.batch import command, workers
from minicpmv.batch.workers import Reply, ServerWorker, WorkerLostError, httpx
from minicpmv.cli import main
from minicpmv.scenes import render


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures and a file of requests about them, one of which fails."""
    folder = tmp_path_factory.mktemp("batch")
    lines = []
    for n in range(3):
        render(n, "test", kind="few").image.save(folder / f"{n}.png")
        lines.append(_request(f"row-{n}", f"{n}.png"))
    lines.append(_request("bad", "0.png") | {"url": "/v1/nothing"})
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _request(name: str, picture: str) -> dict[str, Any]:
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": "How many shapes are there?"},
    ]
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 8}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def _texts(path: Path) -> list[str | None]:
    results = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        each["response"]["body"]["choices"][0]["message"]["content"] if each["response"] else None
        for each in results
    ]


def test_a_batch_gives_the_answers_of_ask_and_goes_on_where_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out.jsonl"
    assert main(["batch", str(folder / "in.jsonl"), str(out)]) == 1
    assert capsys.readouterr().out == f"{out}: 4 results, 1 failed\n"
    with load("nano", progress=False) as chat:
        asked = [
            chat.ask(
                "How many shapes are there?",
                [folder / f"{n}.png"],
                max_new_tokens=8,
                sampling=False,
            )
            for n in range(3)
        ]
    assert _texts(out) == [*(answer.text for answer in asked), None]
    names = [json.loads(line)["custom_id"] for line in out.read_text().splitlines()]
    assert names == ["row-0", "row-1", "row-2", "bad"]

    # Nothing is asked again that has an answer: one that is not the model's stays.
    lines = out.read_text().splitlines()
    lines[1] = lines[1].replace('"content": "', '"content": "kept ')
    out.write_text("\n".join(lines) + "\n")
    assert main(["batch", str(folder / "in.jsonl"), str(out)]) == 1
    assert "is there already. Replace it with --overwrite" in capsys.readouterr().err
    assert main(["batch", str(folder / "in.jsonl"), str(out), "--retry-failed"]) == 1
    assert "4 results, 1 failed, 3 of them from before" in capsys.readouterr().out
    assert _texts(out) == [asked[0].text, f"kept {asked[1].text}", asked[2].text, None]


WRONG = {
    ("missing.jsonl", "o"): "missing.jsonl is not there",
    (".", "o"): "is a folder of pictures: say what is asked with --prompt",
    ("in.jsonl", "o", "--prompt", "x"): "--prompt is for a folder of pictures",
    (".", "o", "--prompt", "x", "--fields", "["): "--fields is not JSON",
    (".", "o", "--prompt", "x", "--fields", "[]"): "--fields is []; expected an object",
    (".", "o", "--prompt", "x", "--fields", '{"stream": true}'): "which a batch sets itself",
    ("in.jsonl", "o", "--workers", "0"): "--workers is 0; it must be at least 1",
    ("in.jsonl", "o", "--patience", "nan"): "--patience is nan",
    ("in.jsonl", "o", "--gpus-per-worker", "1"): "--gpus-per-worker has no effect without --ray",
    ("in.jsonl", "o", "--concurrency", "1"): "--concurrency has no effect without --base-url",
    ("in.jsonl", "o", "--base-url", "x"): "--base-url is 'x'; expected the address of a server",
    (
        "in.jsonl",
        "o",
        "--base-url",
        "http://a",
        "--dtype",
        "float32",
    ): "no effect beside --base-url",
    ("in.jsonl", "o", "--served-model-name", "other"): "Line 1 asks for the model 'nano'",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_typed_wrongly_is_one_line(
    folder: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(folder)
    if "--served-model-name" in words:
        line = _request("a", "0.png")
        line["body"]["model"] = "nano"
        monkeypatch.chdir(folder.parent)
        Path("in.jsonl").write_text(json.dumps(line))
    assert main(["batch", *words]) in (1, 2)
    error = capsys.readouterr().err
    assert WRONG[words] in error
    assert error.count("\n") == 1


def test_a_server_that_stalls_is_lost_with_the_row() -> None:
    async def stall(request: Any) -> Any:
        await asyncio.Event().wait()

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(stall)) as client:
            worker = ServerWorker("http://server", client, 1, answer_s=0.01)
            with pytest.raises(WorkerLostError, match=r"has given no answer in 0\.01 s") as lost:
                await worker.send("/v1/x", b"{}")
            assert lost.value.counts

    asyncio.run(run())


def test_a_server_that_is_busy_is_asked_again_and_one_that_is_gone_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_AGAIN_S", 0.0)
    statuses = [429, 503, 200]
    is_up = False

    def answer(request: Any) -> Any:
        if request.url.path == "/v1/models":
            if not is_up:
                raise httpx.ConnectError("refused", request=request)
            return httpx.Response(200, json={"data": []})
        if not statuses:
            raise httpx.ReadError("reset", request=request)
        return httpx.Response(statuses.pop(0), json={"n": 1}, headers={"x-request-id": "r"})

    async def run() -> None:
        nonlocal is_up
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            worker = ServerWorker("http://server", client, 1)
            assert await worker.send("/v1/x", b"{}") == Reply(200, b'{"n":1}', "r")
            with pytest.raises(WorkerLostError, match="http://server broke off") as lost:
                await worker.send("/v1/x", b"{}")
            assert lost.value.counts
            back = asyncio.create_task(worker.revive())
            await asyncio.sleep(0.01)
            assert not back.done()
            is_up = True
            await back

    asyncio.run(run())


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.part", "in.jsonl.new"])
def test_results_are_not_written_over_the_rows(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / name
    rows.write_text(json.dumps(_request("a", "0.png")) + "\n")
    before = rows.read_bytes()
    assert main(["batch", str(rows), str(tmp_path / "in.jsonl"), "--overwrite"]) != 0
    assert f"is the file of rows, and results would be written to {name}" in capsys.readouterr().err
    assert rows.read_bytes() == before


def test_a_server_that_only_says_that_it_is_busy_is_given_up() -> None:
    async def ask() -> None:
        answer = httpx.Response(429, headers=[(b"retry-after", b"\xb2")])
        transport = httpx.MockTransport(lambda request: answer)
        async with httpx.AsyncClient(transport=transport) as client:
            await ServerWorker("http://a", client, 1, patience_s=0.0).send("/v1/x", b"{}")

    with pytest.raises(workers.WorkerBusyError, match=r"says only that it is busy \(status 429\)"):
        asyncio.run(ask())


def test_kill_ends_the_tasks_in_order_as_ctrl_c_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def slot() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            seen.append("goes on with its line")
            await asyncio.sleep(60)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    def run_batch(*args: Any, **kwargs: Any) -> None:
        async def run() -> None:
            await asyncio.gather(slot())

        asyncio.run(run())

    monkeypatch.setattr(command, "run_batch", run_batch)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    before = signal.getsignal(signal.SIGTERM)
    assert main(["batch", str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl")]) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert seen == ["goes on with its line", "CancelledError"]
