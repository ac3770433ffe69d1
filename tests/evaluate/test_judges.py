"""Judges: what is told apart, what is tried again, what is kept."""

import json

import pytest

from minicpmv.errors import ArgumentError
from minicpmv.evaluate.judges import (
    FunctionJudge,
    Judgements,
    JudgeReply,
    JudgeRequest,
    make_judge,
)
from minicpmv.evaluate.judges.server import ServerJudge
from tests.helpers.judge_server import JudgeServer, Step, refused


def request(text="Right?", **more):
    more = {"valid": lambda reply: reply in ("Yes", "No"), "max_tokens": 5, **more}
    return JudgeRequest([{"role": "user", "content": text}], **more)


def ask(steps, *requests, timeout_s=20.0, **more):
    """Replies of a scripted server, and the server with what it was asked."""
    server, waited = JudgeServer(steps), []
    with server.running() as url:
        judge = ServerJudge(url, "j", sleep=waited.append, timeout_s=timeout_s, **more)
        replies = judge.ask(requests or [request()])
    server.waited = waited
    return replies, server


def test_a_valid_reply_is_taken():
    (reply,), server = ask([Step(" Yes\n")])
    assert reply == JudgeReply("Yes", tries=1)
    assert server.asked == [
        {
            "model": "j",
            "messages": [{"role": "user", "content": "Right?"}],
            "temperature": 0.0,
            "max_tokens": 5,
        }
    ]


@pytest.mark.parametrize(
    ("step", "why", "said"),
    [
        (Step("Perhaps"), "garbage", "Perhaps"),
        (Step(body=b"<html>hello</html>"), "garbage", "<html>hello</html>"),
        (Step(body={"choices": []}), "garbage", '{"choices": []}'),
        (Step(body=[1, 2]), "garbage", "[1, 2]"),
        (Step({"a": 1}), "garbage", "{'a': 1}"),
        (Step(""), "empty", ""),
        (Step(None), "empty", ""),
        (Step("<think>Yes</think> "), "empty", ""),
        (
            Step("I'm sorry, I can't help with that."),
            "refused",
            "I'm sorry, I can't help with that.",
        ),
        (Step("抱歉，我无法回答。"), "refused", "抱歉，我无法回答。"),
        (Step(None, refusal="No way."), "refused", "No way."),
        (Step("", finish_reason="content_filter"), "refused", ""),
        (refused(400, "Filtered.", "content_filter"), "refused", "Filtered."),
    ],
)
def test_what_is_no_verdict_is_told_apart(step, why, said):
    (reply,), server = ask([step])
    assert reply == JudgeReply(None, why, 3, said)
    assert len(server.asked) == 3


def test_what_a_server_refuses_is_not_sent_to_it_again():
    (reply,), server = ask([refused(422, "Too long.")], request(tries=5))
    assert reply == JudgeReply(None, "failed", 1, "status 422: Too long.")
    assert len(server.asked) == 1


def test_a_judge_that_is_too_slow_is_asked_twice_at_most():
    (reply,), server = ask([Step(hangs=True)], request(tries=5), timeout_s=0.1)
    assert (reply.why, reply.tries, len(server.asked)) == ("timeout", 2, 2)


def test_a_judge_that_answers_nothing_any_more_ends_the_run():
    steps = [Step("Yes"), refused(422, "Broken.")]
    with pytest.raises(OSError, match=r"none of 40 questions in a row.*status 422: Broken"):
        ask(steps, *[request(str(number)) for number in range(60)])


def test_garbage_is_asked_again_warmer():
    steps = [Step("Hm"), Step(""), Step("<think>Hm, No</think>\nYes")]
    (reply,), server = ask(steps, request(tries=5, warmer=0.5))
    assert reply == JudgeReply("Yes", tries=3)
    assert [body["temperature"] for body in server.asked] == [0.0, 0.5, 1.0]


def test_temperature_ends_at_two():
    assert request(warmer=1.5).temperature_of(2) == 2.0


def test_no_answer_in_time_is_a_timeout():
    (reply,), server = ask([Step(hangs=True)], request(tries=2), timeout_s=0.2)
    assert (reply.text, reply.why, reply.tries) == (None, "timeout", 2)
    assert len(server.asked) == 2


def test_a_server_that_hangs_for_good_ends_the_run(monkeypatch):
    monkeypatch.setattr("minicpmv.evaluate.judges.server._MOST_LATE", 4)
    requests = [request(str(number), tries=2) for number in range(10)]
    with pytest.raises(OSError, match=r"has answered none of 4 requests within 0\.1 s"):
        ask([Step(hangs=True)], *requests, timeout_s=0.1, concurrency=2)


def test_busy_servers_are_asked_again_when_they_say():
    steps = [
        refused(429, "Slow down.", retry_after="7"),
        refused(503, "Loading."),
        Step(status=429, body=b"", headers={"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Step("No"),
    ]
    (reply,), server = ask(steps)
    assert reply == JudgeReply("No", tries=1)
    assert server.waited[0] == 7
    assert 1 < server.waited[1] < 3
    assert server.waited[2] == 0


def test_a_server_that_keeps_failing_is_counted():
    replies, server = ask([refused(500, "Broken.")], request(tries=1))
    assert replies == [JudgeReply(None, "failed", 1, "status 500: Broken.")]
    assert len(server.asked) == 5
    assert server.waited == sorted(server.waited)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (refused(401, "Bad key."), "takes no requests from us: status 401, Bad key"),
        (
            refused(401, "Bad key."),
            r"Check .*--judge-model.*MINICPMV_JUDGE_KEY.* is kept",
        ),
        (refused(404, "No such model."), "status 404"),
        (refused(403, "No."), "status 403"),
        (refused(429, "Pay.", "insufficient_quota"), "status 429, Pay"),
        (refused(429, "Later.", retry_after="86400"), "asks to wait for 86400 s"),
    ],
)
def test_a_judge_that_will_never_answer_ends_the_run(step, message):
    with pytest.raises(OSError, match=message):
        ask([step])


def test_a_question_that_is_forbidden_does_not_end_the_run():
    steps = [Step("Yes"), refused(403, "Flagged."), Step("No")]
    replies, _ = ask(steps, *(request(str(n)) for n in range(3)), concurrency=1)
    assert [reply.text for reply in replies] == ["Yes", None, "No"]
    assert replies[1].said == "status 403: Flagged."


def test_a_judge_that_hides_its_models_from_the_key_says_so():
    class Locked(JudgeServer):
        models = refused(401, "Bad key.")

    with (
        Locked([Step("Yes")]).running() as url,
        pytest.raises(OSError, match=r"status 401, Bad key\. Check .*MINICPMV_JUDGE_KEY"),
    ):
        ServerJudge(url)


def checked(*steps, model="j", timeout_s=20.0):
    """A scripted server that a judge has checked."""
    server = JudgeServer(list(steps))
    with server.running() as url:
        ServerJudge(url, model, api_key="k", timeout_s=timeout_s).check()
    return server


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (refused(401, "Bad key."), r"status 401, Bad key\. Check .*MINICPMV_JUDGE_KEY"),
        (refused(403, "No."), "status 403, No"),
        (refused(404, "No such model."), r"status 404, No such model\. Check .*--judge-model"),
        (refused(400, "Invalid model: gpt-9", "1500"), "status 400, Invalid model: gpt-9"),
        (refused(400, "Model Not Exist", "invalid_request_error"), "Model Not Exist"),
        (refused(422, "What?", "model_not_found"), "status 422, What"),
        (refused(429, "Pay.", "insufficient_quota"), "status 429, Pay"),
    ],
)
def test_a_judge_that_is_checked_says_what_would_end_the_run(step, message):
    with pytest.raises(OSError, match=message):
        checked(step, model="gpt-9")


@pytest.mark.parametrize(
    "step",
    [
        Step("Yes."),
        Step(""),
        Step(body=b"<html>"),
        refused(429, "Slow down.", retry_after="86400"),
        refused(503, "Loading."),
        refused(400, "Could not finish: max_tokens was reached."),
        refused(400, "Filtered.", "content_filter"),
    ],
)
def test_a_judge_that_may_answer_later_passes(step):
    server = checked(step)
    assert [body["messages"] for body in server.asked] == [
        [{"role": "user", "content": "Say yes."}]
    ]
    assert server.keys == ["Bearer k"]


def test_a_judge_that_hangs_passes():
    assert len(checked(Step(hangs=True), timeout_s=0.1).asked) == 1


def test_a_check_finds_the_words_of_newer_models():
    steps = [
        refused(400, "Use 'max_completion_tokens' instead of 'max_tokens' with j."),
        refused(400, "Unsupported value: 'temperature' of j."),
    ]
    with pytest.raises(OSError, match="Bad key"):
        checked(*steps, refused(401, "Bad key."))
    assert checked(*steps, Step("Yes")).asked[-1].keys() == {
        "model",
        "messages",
        "max_completion_tokens",
    }


def test_a_question_that_is_forbidden_after_the_check_does_not_end_the_run():
    server = JudgeServer([Step("Yes"), refused(403, "Flagged.")])
    with server.running() as url:
        judge = ServerJudge(url, "j")
        judge.check()
        (reply,) = judge.ask([request()])
    assert reply.said == "status 403: Flagged."


def test_a_judge_that_is_not_there_ends_the_run():
    with JudgeServer([Step("Yes")]).running() as url:
        pass
    judge = ServerJudge(f"http://user:secret@{url[7:]}/v1", "j", sleep=lambda seconds: None)
    for ask_it in (judge.check, lambda: judge.ask([request()])):
        with pytest.raises(OSError, match="cannot be reached") as error:
            ask_it()
        assert "secret" not in f"{error.value}{judge.name}"


def test_newer_models_get_the_words_they_know():
    steps = [
        refused(400, "Use 'max_completion_tokens' instead."),
        refused(400, "Unsupported value: 'temperature'."),
        Step("Yes"),
    ]
    (reply,), server = ask(steps)
    assert reply.text == "Yes"
    assert server.asked[-1].keys() == {"model", "messages", "max_completion_tokens"}


def test_replies_come_in_the_order_of_the_requests():
    requests = [request(str(number), valid=str.isdigit) for number in range(20)]
    replies, _ = ask(lambda prompt: Step(prompt), *requests, concurrency=4)
    assert [reply.text for reply in replies] == [str(number) for number in range(20)]


def test_the_model_and_the_key_are_found(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv("MINICPMV_JUDGE_KEY", "mine")
    server = JudgeServer([Step("Yes")])
    with server.running() as url:
        judge = make_judge(f"{url}/v1/chat/completions")
        assert judge.ask([request()]) == [JudgeReply("Yes")]
        assert server.asked[0]["model"] == "the-judge"
    assert server.keys == ["Bearer mine"]
    assert judge.name == f"{url}/v1 the-judge"


def test_words_that_name_no_judge():
    assert make_judge("exact") is None
    with pytest.raises(ArgumentError, match="judge_model would have no effect"):
        make_judge("exact", model="gpt")
    with pytest.raises(ArgumentError, match="expected the address of a server"):
        make_judge("http://")


def test_a_function_judges():
    temperatures = []

    def judge(prompt, temperature):
        temperatures.append(temperature)
        if prompt == "late":
            raise TimeoutError
        return {"none": None, "good": "Yes"}.get(prompt, "nonsense")

    requests = [request(word, tries=2, warmer=1.0) for word in ("good", "none", "bad", "late")]
    replies = make_judge(judge).ask(requests)
    assert [(reply.text, reply.why) for reply in replies] == [
        ("Yes", ""),
        (None, "empty"),
        (None, "garbage"),
        (None, "timeout"),
    ]
    assert temperatures == [0, 0, 1, 0, 1, 0, 1]
    assert "judge" in make_judge(judge).name


def counted(answers):
    asked = []

    def judge(prompt, temperature):
        asked.append(prompt)
        return answers[prompt]

    return FunctionJudge(judge, "me"), asked


def test_nobody_is_asked_twice(tmp_path):
    path = tmp_path / "judgements.jsonl"
    judge, asked = counted({"a": "Yes", "b": "nonsense"})
    requests = [request("a", tries=1), request("b", tries=1), request("a", tries=1)]
    progress = []
    with Judgements(path) as kept:
        first = kept.ask(judge, requests, lambda *numbers: progress.append(numbers))
    assert asked == ["a", "b"]
    assert progress == [(0, 2), (1, 2), (2, 2)]
    with Judgements(path) as kept:
        assert kept.ask(judge, requests) == first
        assert kept.num_known == 2
        assert asked == ["a", "b"]
        kept.ask(FunctionJudge(lambda prompt, temperature: "No", "another"), requests[:1])
        kept.ask(judge, [request("a", temperature=0.2)])
    assert asked == ["a", "b", "a"]
    assert [json.loads(line)["judge"] for line in path.read_text().splitlines()] == [
        "me",
        "me",
        "another",
        "me",
    ]


def test_what_may_pass_is_asked_again(tmp_path):
    path = tmp_path / "judgements.jsonl"

    def late(prompt, temperature):
        raise TimeoutError

    with Judgements(path) as kept:
        assert kept.ask(FunctionJudge(late, "me"), [request()])[0].why == "timeout"
    with Judgements(path) as kept:
        reply = kept.ask(FunctionJudge(lambda prompt, temperature: "No", "me"), [request()])
    assert reply == [JudgeReply("No")]


def test_a_reply_that_is_valid_no_more_is_asked_again(tmp_path):
    path = tmp_path / "judgements.jsonl"
    judge, asked = counted({"a": "Yes"})
    with Judgements(path) as kept:
        kept.ask(judge, [request("a")])
    with Judgements(path) as kept:
        kept.ask(judge, [request("a", valid=lambda reply: reply == "yes")])
    assert len(asked) == 4


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path):
    path = tmp_path / "judgements.jsonl"
    judge, asked = counted({"a": "Yes", "b": "No"})
    with Judgements(path) as kept:
        kept.ask(judge, [request("a"), request("b")])
    path.write_bytes(path.read_bytes()[:-9])
    with Judgements(path) as kept:
        assert [reply.text for reply in kept.ask(judge, [request("a"), request("b")])] == [
            "Yes",
            "No",
        ]
    assert asked == ["a", "b", "b"]
    assert len(path.read_text().splitlines()) == 2


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "judgements.jsonl"
    path.write_text('{"key": "x"}\n')
    with pytest.raises(ValueError, match="line 1 is no judgement"):
        Judgements(path)


def test_two_runs_do_not_write_one_file(tmp_path):
    path = tmp_path / "judgements.jsonl"
    with Judgements(path), pytest.raises(OSError, match="written by another process"):
        Judgements(path)


def test_half_surrogates_are_kept_and_hashed(tmp_path):
    judge, _ = counted({"\ud800": "Yes"})
    with Judgements(tmp_path / "judgements.jsonl") as kept:
        assert kept.ask(judge, [request("\ud800")])[0].text == "Yes"
