"""What users do besides asking and reading: close, interrupt, drop, change the model, give less."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from minicpmv import Answer, AnswerStream, AutoModel, Chat, load
from minicpmv.chat import EngineLimits
from minicpmv.processing import MiniCPMVProcessor

from ..helpers.chats import FOLDERS
from ..helpers.golden import golden_case
from ..helpers.mixes import check_idle
from ..helpers.pictures import picture

GREEDY: dict[str, Any] = {"sampling": False, "num_beams": 1, "max_new_tokens": 8}
LONG: dict[str, Any] = GREEDY | {"max_new_tokens": 3000, "min_new_tokens": 3000}
BEAMS: dict[str, Any] = {"sampling": False, "num_beams": 2, "max_new_tokens": 300}
TIMEOUT_S = 300  # of what would never end


@pytest.mark.parametrize("options", [LONG, BEAMS], ids=["engine", "generate"])
def test_another_thread_may_close_a_stream(seeing: Chat, options: dict[str, Any]) -> None:
    conversation = seeing.conversation()
    for stream in (seeing.stream("Hello", **options), conversation.say("Hello", **options)):
        found: list[Any] = []
        reader = threading.Thread(target=lambda s=stream, f=found: f.append(list(s)))
        reader.start()
        stream.close()
        reader.join(TIMEOUT_S)
        assert not reader.is_alive()
        assert (len(found), stream.is_open, stream.answer) == (1, False, None)
        with pytest.raises(ValueError, match="closed before its answer was complete"):
            stream.read()
    assert conversation.history == []
    check_idle(seeing)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Python's own handler, which a process that a shell starts in the background has not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_ends_what_was_waited_for(seeing: Chat) -> None:
    stream = seeing.stream("Hello", **LONG)
    next(stream)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in stream:
            pass
    timer.join()
    check_idle(seeing)
    assert not stream.is_open


def test_an_error_while_a_stream_is_read_stops_what_computes_it() -> None:
    stopped: list[bool] = []

    def pieces() -> Any:
        yield "a"
        raise OSError("gone")

    stream = AnswerStream(pieces(), lambda: stopped.append(True))
    with pytest.raises(OSError, match="gone"):
        list(stream)
    assert stopped == [True]


def test_an_error_of_on_progress_ends_the_batch(seeing: Chat) -> None:
    def interrupt(done: int, total: int) -> None:
        raise RuntimeError(f"{done} of {total}")

    with pytest.raises(RuntimeError, match="1 of 6"):  # the traceback keeps the frame alive
        seeing.batch(["Hi", *["Hello"] * 5], batch_size=2, on_progress=interrupt, **LONG)
    check_idle(seeing)


def test_a_batch_keeps_to_the_limits(seeing: Chat) -> None:
    requests = [f"How many are {number}?" for number in range(6)]
    wanted = [seeing.ask(request, **GREEDY) for request in requests]
    limits = EngineLimits(max_running=1, max_waiting=1, piece_tokens=1, idle_bytes=0)
    with Chat(seeing.model, seeing.processor, limits=limits) as chat:
        assert chat.batch(requests, **GREEDY) == wanted
        messages = [[{"role": "user", "content": request}] for request in requests]
        assert chat.answer_all(messages, **GREEDY) == wanted


def test_limits_of_another_type_are_named() -> None:
    with pytest.raises(ValueError, match=r"limits is \{'max_running': 1\}; pass .*EngineLimits"):
        load("nano", limits={"max_running": 1})  # type: ignore[arg-type]


def test_given_features_belong_to_the_pictures(seeing: Chat) -> None:
    image = picture(40, 30)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]
    inputs, _ = seeing.prepare([[{"role": "user", "content": content}]])
    features = seeing.model.get_image_features(
        inputs["pixel_values"], inputs["target_sizes"], return_dict=True
    ).pooler_output
    wanted = seeing.ask("What?", [image], **GREEDY)
    assert seeing.ask("What?", [image], image_features=features, **GREEDY) == wanted
    with pytest.raises(ValueError, match="image_features are of 2 slices; the prompt shows 1"):
        seeing.ask("What?", [image], image_features=features.repeat(2, 1, 1), **GREEDY)
    with pytest.raises(ValueError, match="image_features has shape"):
        seeing.ask("What?", [image], image_features=features[:, 1:], **GREEDY)


def test_weights_that_are_put_in_place_of_others_are_seen() -> None:
    chat = load(FOLDERS["2.6"], device="cpu", dtype="float32")
    table = chat.model.get_input_embeddings().weight

    def give_data() -> None:
        table.data = table.data.roll(1, 0)

    def give_parameters() -> None:
        state = {name: value.clone() for name, value in chat.model.state_dict().items()}
        state["lm_head.weight"] = state["lm_head.weight"].roll(1, 0)
        chat.model.load_state_dict(state, assign=True)

    def give_module() -> None:
        head = chat.model.lm_head
        chat.model.lm_head = nn.Linear(head.in_features, head.out_features, bias=False)

    for change in (give_data, give_parameters, give_module):
        before = chat.ask("Hello you there, how are things today?", **GREEDY)
        change()
        after = chat.ask("Hello you there, how are things today?", **GREEDY)
        chat.engine.forget()
        assert chat.ask("Hello you there, how are things today?", **GREEDY) == after != before


def test_the_released_answer_hides_tokens_and_its_stream_does_not() -> None:
    case = golden_case("2.6", "exclamation_masked")
    processor = MiniCPMVProcessor.from_pretrained(FOLDERS["2.6"], compat="released")
    chat = Chat(case.golden.model, processor)
    messages = case.golden.messages(case.record)
    options = GREEDY | {"max_new_tokens": 12}
    recorded = tuple(case.record["content_ids"]["greedy"][0])
    answers: list[Answer] = [chat.ask(messages, **options), *chat.batch([messages], **options)]
    for answer in answers:
        assert answer.token_ids[: len(recorded)] == recorded
    assert chat.stream(messages, **options).read() != answers[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_answers_for_itself(seeing: Chat) -> None:
    wanted = seeing.ask("Hello", **GREEDY)
    reader, writer = os.pipe()
    with seeing.stream("Hello", **LONG) as stream:
        next(stream)
        child = os.fork()
        if child == 0:
            try:
                with pytest.raises(ValueError, match="The process was forked"):
                    list(stream)
                os.write(writer, str(seeing.ask("Hello", **GREEDY)).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            assert pipe.read().decode() == wanted
        os.waitpid(child, 0)
        assert next(stream)
    check_idle(seeing)


ENDS = """
import sys
from minicpmv import load
chat = load(sys.argv[1], device="cpu", dtype="float32")
long = {"sampling": False, "num_beams": 1, "max_new_tokens": 3000, "min_new_tokens": 3000}
streams = [chat.stream("Hi", **long) for _ in range(3)]
chat.model.generation_config.typical_p = 0.9  # which only `generate` knows
streams.append(chat.stream("Hi", **long))
assert all(map(next, streams))
print("end")
"""


def test_the_interpreter_ends_while_answers_are_computed() -> None:
    command = [sys.executable, "-c", ENDS, str(FOLDERS["2.6"])]
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_calls_of_the_released_chat_leave_no_threads() -> None:
    model = AutoModel.from_pretrained(FOLDERS["2.6"], dtype=torch.float32).eval()
    before = threading.active_count()
    for number in range(3):
        question = [{"role": "user", "content": f"Hello {number}"}]
        model.chat(msgs=question, sampling=True, max_new_tokens=2)
    assert threading.active_count() <= before
