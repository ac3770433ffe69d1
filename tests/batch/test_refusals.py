"""A server that refuses not one request but whoever asks ends a run, and what is done is kept."""

import json
from pathlib import Path

import pytest

from minicpmv.batch.command import Place, run_batch
from minicpmv.batch.evaluation import ServerAnswerer
from minicpmv.batch.refusals import RefusedError
from minicpmv.batch.rows import RequestFile
from minicpmv.evaluate.own import own_page
from minicpmv.evaluate.run import ask, asking_of, items_of

from ..helpers.evaluation import lines_of, write_questions
from ..helpers.judge_server import JudgeServer, Step, refused

KEY = r"No key was given: set it with --api-key or \$MINICPMV_API_KEY"


def evaluated(folder, server, **options):
    """The outcome of asking ten questions, one at a time."""
    file = write_questions(folder, 10)
    page = own_page(file, "exact-match")
    items = items_of(page, file)
    with server.running() as url:
        answerer = ServerAnswerer([url], concurrency=1, **options)
        asking = asking_of(page, "", items, max_new_tokens=6)
        return ask(asking, items, answerer, folder / "run")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (refused(401, "Bad key."), f"chat/completions refuses .*status 401, 'Bad key.'. {KEY}"),
        (refused(403, "No."), KEY),
        (refused(402, "Pay."), "status 402, 'Pay.'. Look at the account"),
        (refused(404, "No model x."), r"'No model x.'. Check the address \(--base-url\).*--model"),
        (Step(status=404, body={"detail": "Not Found"}), "status 404, 'Not Found'"),
        (Step(status=405, body=b"<html>no</html>"), "status 405, '<html>no</html>'"),
    ],
)
def test_an_answer_to_all_items_ends_an_evaluation_at_the_first(tmp_path, step, message):
    server = JudgeServer([step])
    with pytest.raises(RefusedError, match=message):
        evaluated(tmp_path, server)
    assert len(server.asked) == 1


def test_what_was_answered_before_is_kept_and_the_run_goes_on(tmp_path):
    steps = [Step("red"), Step("blue"), refused(401, "Expired.")]
    server = JudgeServer(steps)
    with pytest.raises(RefusedError, match=r"The key that was given is not taken.*goes on"):
        evaluated(tmp_path, server, api_key="old")
    assert len(server.asked) == 3
    assert [line["answer"] for line in lines_of(tmp_path / "run")] == ["red", "blue"]
    server = JudgeServer([Step("green")])
    outcome = evaluated(tmp_path, server, api_key="new")
    assert (len(server.asked), len(outcome.answers), outcome.failures) == (8, 10, {})


@pytest.mark.parametrize("step", [refused(403, "Flagged."), refused(400, "Odd.")])
def test_what_concerns_one_item_is_said_there(tmp_path, step):
    server = JudgeServer([Step("red"), step, Step("blue")])
    outcome = evaluated(tmp_path, server)
    assert len(outcome.answers) == 9
    assert [*outcome.failures.values()] == [
        f"status {step.status}: {json.loads(step.body)['error']['message']}"
    ]


def test_a_key_that_lists_no_models_is_named_with_what_to_set():
    class Locked(JudgeServer):
        models = refused(401, "Bad key.")

    with (
        Locked([Step("red")]).running() as url,
        pytest.raises(OSError, match=rf"/v1/models answers with status 401, 'Bad key.'. {KEY}\.$"),
    ):
        ServerAnswerer([url])


def batch(folder: Path, models: tuple[str, ...], server: JudgeServer):
    lines = [
        {
            "custom_id": str(n),
            "body": {"model": model, "messages": [{"role": "user", "content": model}]},
        }
        for n, model in enumerate(models)
    ]
    file = folder / "in.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with server.running() as url:
        place = Place(base_urls=(url,), concurrency=1)
        return run_batch(RequestFile(file), folder / "out.jsonl", place)


@pytest.mark.parametrize("status", [401, 404])
def test_a_batch_ends_at_the_first_answer_to_all_rows_and_goes_on(tmp_path, status):
    server = JudgeServer([Step("red"), refused(status, "No.")])
    with pytest.raises(RefusedError, match=f"status {status}, 'No.'"):
        batch(tmp_path, ("a",) * 4, server)
    assert len(server.asked) == 2
    summary = batch(tmp_path, ("a",) * 4, JudgeServer([Step("blue")]))
    assert (summary.count, summary.num_failed, summary.num_before) == (4, 0, 1)


def test_an_unknown_model_of_one_row_is_its_result_where_rows_ask_several(tmp_path):
    server = JudgeServer(lambda model: refused(404, "No.") if model == "b" else Step("red"))
    summary = batch(tmp_path, ("a", "b", "a"), server)
    assert (summary.count, summary.num_failed) == (3, 1)
