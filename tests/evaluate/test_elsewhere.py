"""Items answered by other processes and by servers: the same answers, and none lost."""

import os
import pickle
import signal
from dataclasses import replace
from functools import partial

import pytest

from minicpmv.batch.evaluation import ServerAnswerer
from minicpmv.evaluate.answering import LocalAnswerer, release_of
from minicpmv.evaluate.own import own_page
from minicpmv.evaluate.processes import ProcessAnswerer, load_in_turn
from minicpmv.evaluate.run import ask, asking_of, items_of
from minicpmv.loader import load
from minicpmv.serve.app import create_app
from minicpmv.serve.settings import ServeSettings

from ..helpers.evaluation import lines_of, write_questions
from ..helpers.fake_vllm import serving


def load_nano(number):
    return load("nano", "cpu", "float32", progress=False)


def refuse(number):
    raise ValueError("there is no such model")


@pytest.fixture(scope="module")
def nano():
    with load("nano", "cpu", "float32") as chat:
        yield chat


@pytest.fixture(scope="module")
def server():
    app = create_app(ServeSettings(device="cpu", dtype="float32", max_num_seqs=4))
    with serving(app) as url:
        yield url


@pytest.fixture
def mine(tmp_path):
    file = write_questions(tmp_path, 10)
    page = own_page(file, "exact-match")
    return page, items_of(page, file)


def here(nano, asking, items, folder):
    """The answers of the model in this process."""
    ask(asking, items, LocalAnswerer(nano, "nano", 3), folder)
    return lines_of(folder)


def test_two_processes_answer_as_one_and_one_that_dies_is_replaced(nano, mine, tmp_path):
    page, items = mine
    asking = asking_of(page, "nano", items, max_new_tokens=6)
    expected = here(nano, asking, items, tmp_path / "one")
    with ProcessAnswerer(2, load_nano, "nano", 2) as answerer:
        assert answerer.model == LocalAnswerer(nano, "nano").model
        ask(asking, items, answerer, tmp_path / "two")
        assert lines_of(tmp_path / "two") == expected
        os.kill(answerer._workers[0].process.pid, signal.SIGKILL)
        ask(asking, items, answerer, tmp_path / "left")
        assert lines_of(tmp_path / "left") == expected
    assert len(expected) == 10


def test_a_model_that_no_process_can_load_is_one_error():
    with pytest.raises(ValueError, match="there is no such model"):
        ProcessAnswerer(1, refuse, "none")


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_server_of_ours_answers_as_the_model_here(nano, server, mine, tmp_path, num_beams):
    page, items = mine
    asking = asking_of(page, "nano", items, max_new_tokens=6, num_beams=num_beams)
    expected = here(nano, asking, items, tmp_path / "here")
    answerer = ServerAnswerer([server, f"{server}/v1"], concurrency=3)
    assert (answerer.model.name, answerer.model.ignores) == ("nano", ())
    ask(asking, items, answerer, tmp_path / "there")
    assert lines_of(tmp_path / "there") == expected


def test_an_answer_longer_than_the_context_is_asked_without_a_length(server, mine, tmp_path):
    page, items = mine
    asking = asking_of(page, "nano", items, max_new_tokens=10**6)
    answerer = ServerAnswerer([server])
    outcome = ask(asking, items, answerer, tmp_path / "run")
    assert (len(outcome.answers), outcome.failures) == (10, {})


def test_what_a_server_refuses_is_said_at_the_item(server, mine, tmp_path):
    page, items = mine
    broken = replace(next(iter(items)), id="broken", pictures=(b"\x89PNG no picture",))
    asking = asking_of(page, "nano", items, max_new_tokens=6)
    answerer = ServerAnswerer([server])
    outcome = ask(asking, [broken, *items], answerer, tmp_path / "run")
    assert outcome.failures["broken"].startswith("status 400: ")
    assert len(outcome.answers) == 10


def test_servers_that_are_gone_end_the_run_with_what_is_done(mine, tmp_path):
    page, items = mine
    with pytest.raises(OSError, match=r"127.0.0.1:9 cannot be reached"):
        ServerAnswerer(["http://127.0.0.1:9"])
    app = create_app(ServeSettings(device="cpu", dtype="float32", max_num_seqs=4))
    with serving(app) as url:
        answerer = ServerAnswerer([url], patience_s=0.3)
    asking = asking_of(page, "nano", items, max_new_tokens=6)
    with pytest.raises(OSError, match=r"nobody has answered.*the same command goes on"):
        ask(asking, items, answerer, tmp_path / "run")


def test_a_server_with_several_models_asks_for_a_name(mine):
    settings = ServeSettings(model=("nano", "nano"), served_model_name=("a", "b"), device="cpu")
    with serving(create_app(settings)) as url:
        with pytest.raises(ValueError, match="has the models a, b; name one with --model"):
            ServerAnswerer([url])
        with pytest.raises(ValueError, match="has no model 'c'; it has a, b"):
            ServerAnswerer([url], "c")
        assert ServerAnswerer([url], "b").model.name == "b"


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("openbmb/MiniCPM-V-2_6", "2.6"),
        ("./models/MiniCPM-V-2_6-int4", "2.6"),
        ("openbmb/MiniCPM-Llama3-V-2_5", "2.5"),
        ("openbmb/MiniCPM-V-2", "2.0"),
        ("openbmb/MiniCPM-V", "1.0"),
        ("openbmb/OmniLMM-12B", "omnilmm"),
        ("Qwen2-VL", ""),
    ],
)
def test_the_release_is_read_off_a_name(name, release):
    assert release_of(name) == release


def test_what_is_loaded_can_be_sent_to_a_process():
    assert pickle.loads(pickle.dumps(partial(load_in_turn, "nano", {"device": "cpu"})))
