"""`/v1/decisions` of the bundled model, over HTTP and by OpenAI's own client."""

import asyncio
import base64
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from minicpmv import Calibration, load
from minicpmv.decisions.calibration import Quality, fingerprint_of
from minicpmv.serve.app import create_app
from minicpmv.serve.settings import ServeSettings

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
SHOWN = "data:image/png;base64," + base64.b64encode(SCENE.read_bytes()).decode()
USER: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "input_image", "image_url": SHOWN}],
}
COLOURS = ["red", "purple", "blue"]
COLOUR: dict[str, Any] = {
    "type": "choice",
    "name": "colour",
    "instructions": "What colour is the star?",
    "choices": [{"value": colour} for colour in COLOURS],
}
STAR: dict[str, Any] = {"type": "predicate", "instructions": "Is there a star?"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(ServeSettings())) as client:
        yield client


@pytest.fixture(scope="module")
def api(client: TestClient) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://testserver/v1", api_key="-", http_client=client)


def decide(client: TestClient, *questions: Any, given: Any = None, **fields: Any) -> Any:
    body = {"model": "nano", "input": given or [USER], "questions": list(questions)}
    response = client.post("/v1/decisions", json=body | fields)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, body: Any) -> dict[str, Any]:
    response = client.post("/v1/decisions", json=body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_the_client_of_openai_decides_about_a_picture(api: openai.OpenAI) -> None:
    found = api.decisions.create(
        model="nano",
        input=[USER],
        questions=[
            STAR,
            COLOUR,
            {
                "type": "score",
                "name": "many",
                "instructions": "How many stars are there?",
                "levels": [{"label": "0"}, {"label": "1"}, {"label": "2"}],
            },
        ],
    )
    star, colour, many = found.answers
    assert (found.model, star.type, star.name) == ("nano", "predicate", None)
    assert star.probability > 0.9
    assert (colour.type, colour.name, colour.choice) == ("choice", "colour", "purple")
    assert [each.value for each in colour.probabilities] == COLOURS
    assert math.fsum(each.probability for each in colour.probabilities) == pytest.approx(1)
    assert 0.9 < colour.confidence <= colour.probabilities[1].probability
    assert many.type == "score"
    assert [(each.label, each.value) for each in many.probabilities] == [
        ("0", 0),
        ("1", 1),
        ("2", 2),
    ]
    mean = math.fsum(each.value * each.probability for each in many.probabilities)
    assert many.score == pytest.approx(mean)
    assert many.score == pytest.approx(1, abs=0.5)
    usage = found.usage
    assert usage.total_tokens == usage.input_tokens > 1500
    assert usage.input_tokens_details.cached_tokens > 1000
    assert usage.output_tokens == usage.output_tokens_details.reasoning_tokens == 0


def test_probabilities_are_those_of_the_library(client: TestClient) -> None:
    (answer,) = decide(client, COLOUR)["answers"]
    chat = load("nano")
    found = chat.decide("What colour is the star?", [SCENE], choices=COLOURS)
    wanted = [
        {"value": k, "probability": pytest.approx(v, abs=1e-3)}
        for k, v in found.probabilities.items()
    ]
    assert answer["probabilities"] == wanted
    assert answer["mass"] == pytest.approx(found.mass, abs=1e-3)
    assert answer["calibrated"] is False


def test_statements_questions_and_booleans(client: TestClient) -> None:
    truth = {
        "type": "choice",
        "instructions": "Is there a star?",
        "choices": [{"value": True}, {"value": False}, {"value": "perhaps"}],
    }
    answers = decide(
        client,
        {"type": "predicate", "instructions": "There is a star in the picture."},
        {"type": "predicate", "instructions": [{"type": "input_text", "text": "Is it a moon?"}]},
        truth,
    )["answers"]
    assert answers[0]["probability"] > 0.5
    assert answers[1]["probability"] < 0.5
    assert answers[2]["choice"] is True
    assert [each["value"] for each in answers[2]["probabilities"]] == [True, False, "perhaps"]


def test_inputs_of_every_form(client: TestClient) -> None:
    sure = decide(client, STAR, given="There is a star.")["answers"][0]["probability"]
    assert 0 <= sure <= 1
    parts = [
        {"type": "input_text", "text": "Look."},
        {"type": "input_image", "image_url": SHOWN, "detail": "low"},
        {"type": "input_json", "data": {"place": [1, 2]}},
    ]
    dialogue = [
        {"role": "system", "content": "Be brief."},
        {"type": "message", "role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I see."}]},
    ]
    found = decide(client, STAR, COLOUR, given=dialogue)
    assert [each["type"] for each in found["answers"]] == ["predicate", "choice"]
    longer = decide(client, STAR, COLOUR, given=[*dialogue, {"role": "user", "content": "Well?"}])
    assert longer["usage"]["input_tokens"] > found["usage"]["input_tokens"]


def test_written_choices_and_their_orders(client: TestClient) -> None:
    plain = decide(client, COLOUR)
    told = COLOUR | {"choices": [{"value": c, "description": f"like {c} ink"} for c in COLOURS]}
    described = decide(client, told)
    assert described["usage"]["input_tokens"] > plain["usage"]["input_tokens"]
    listed = decide(client, COLOUR, list_choices=True)
    averaged = decide(client, COLOUR, list_choices=True, average_orders=True)
    each = averaged["usage"]["input_tokens"]
    assert each == 6 * listed["usage"]["input_tokens"]
    turned = COLOUR | {"choices": list(reversed(COLOUR["choices"]))}
    again = decide(client, turned, list_choices=True, average_orders=True)["answers"][0]
    by_value = {p["value"]: p["probability"] for p in again["probabilities"]}
    for found in averaged["answers"][0]["probabilities"]:
        assert by_value[found["value"]] == pytest.approx(found["probability"], abs=1e-2)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"questions": []}, "questions", "at least 1"),
        ({"questions": [STAR] * 65}, "questions", "at most 64"),
        ({"questions": [{"type": "essay"}]}, "questions[0]", "predicate or choice or score"),
        (
            {"questions": [STAR | {"instructions": " "}]},
            "questions[0].instructions",
            "is blank",
        ),
        (
            {"questions": [COLOUR | {"choices": [{"value": "a"}]}]},
            "questions[0].choices",
            "at least 2",
        ),
        (
            {"questions": [COLOUR | {"choices": [{"value": str(n)} for n in range(27)]}]},
            "questions[0].choices",
            "at most 26",
        ),
        (
            {"questions": [STAR, COLOUR | {"choices": [{"value": "a"}, {"value": "a"}]}]},
            "questions[1].choices",
            "choices has 'a' twice; each comes once",
        ),
        (
            {"questions": [COLOUR | {"choices": [{"value": "a"}, {"value": "a "}]}]},
            "questions[0].choices",
            "twice",
        ),
        (
            {"questions": [COLOUR | {"choices": [{"value": "yes"}, {"value": True}]}]},
            "questions[0].choices",
            "the answer 'yes' twice",
        ),
        (
            {"questions": [COLOUR | {"choices": [{"value": "a"}, {"value": " "}]}]},
            "questions[0].choices",
            "blank",
        ),
        (
            {"questions": [COLOUR | {"choices": [{"value": "a"}, {"value": 3}]}]},
            "questions[0].choices[1].value",
            "it is 3; expected a string, true or false.",
        ),
        ({"questions": [STAR | {"choices": []}]}, "questions[0].choices", "not a parameter"),
        (
            {"questions": [STAR | {"instructions": [USER["content"][0]]}]},
            "questions[0].instructions[0]",
            "show pictures in",
        ),
        (
            {"questions": [STAR | {"instructions": 3}]},
            "questions[0].instructions",
            "it is 3; expec",
        ),
        ({"average_orders": True}, "average_orders", "without list_choices=true:"),
        (
            {
                "questions": [COLOUR | {"choices": [{"value": str(n)} for n in range(25)]}],
                "list_choices": True,
                "average_orders": True,
            },
            "average_orders",
            "25 choices would be 25 prompts; at most 24",
        ),
        ({"temperature": 1}, "temperature", "is not a parameter"),
        ({"input": []}, "input", ""),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content", "is empty"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].image_url",
            "",
        ),
        (
            {"input": "?", "mm_processor_kwargs": {"max_slice_nums": 2}},
            "mm_processor_kwargs.max_slice_nums",
            "would have no effect",
        ),
        ({"input": "word " * 9000}, "input", "context"),
    ],
)
def test_what_is_refused(
    client: TestClient, change: dict[str, Any], param: str, message: str
) -> None:
    body = {"model": "nano", "input": [USER], "questions": [STAR, COLOUR]} | change
    error = refused(client, body)
    assert error["param"] == param, error
    assert message in error["message"]
    assert "\n" not in error["message"]


def test_an_unknown_model_and_a_long_choice(client: TestClient) -> None:
    body = {"model": "other", "input": "?", "questions": [STAR]}
    assert client.post("/v1/decisions", json=body).status_code == 404
    long = COLOUR | {"choices": [{"value": "a"}, {"value": "b " * 100}]}
    error = refused(client, {"model": "nano", "input": "?", "questions": [long]})
    assert "at most 64 are scored" in error["message"]


def test_decisions_are_counted(client: TestClient) -> None:
    before = _prompt_tokens(client)
    usage = decide(client, STAR, COLOUR)["usage"]
    assert _prompt_tokens(client) - before == usage["input_tokens"]


def _prompt_tokens(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    (line,) = [each for each in lines if each.startswith("minicpmv:prompt_tokens_total{")]
    return float(line.rpartition(" ")[2])


def _calibration(model: str = "nano", **changes: Any) -> dict[str, Any]:
    quality = vars(Quality(0.1, 0.1, 0.9))
    found = {
        "model": model,
        "fingerprint": fingerprint_of(load(model).model),
        "temperature": 4.0,
        "bias": None,
        "list_choices": False,
        "average_orders": None,
        "num_fitted": 20,
        "num_held_out": 20,
        "before": quality,
        "after": quality,
        "version": 1,
    }
    return found | changes


def test_the_calibration_of_the_server(client: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(_calibration()))
    assert Calibration.load(path).temperature == 4.0
    with TestClient(create_app(ServeSettings(calibration=str(path)))) as calibrating:
        found = decide(calibrating, COLOUR)["answers"][0]
        listed = decide(calibrating, COLOUR, list_choices=True)["answers"][0]
    assert (found["calibrated"], listed["calibrated"]) == (True, False)
    plain = decide(client, COLOUR)["answers"][0]
    assert plain["choice"] == found["choice"] == "purple"
    assert found["confidence"] < plain["confidence"]
    path.write_text(json.dumps(_calibration(fingerprint="0" * 16)))
    app = create_app(ServeSettings(calibration=str(path)))
    with pytest.raises(ValueError, match="was made for nano"), TestClient(app):
        pass


def test_a_calibration_of_none_of_several_models_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.json"
    for changes, is_told in (({}, False), ({"fingerprint": "0" * 16}, True)):
        path.write_text(json.dumps(_calibration(**changes)))
        settings = ServeSettings(
            model=("nano", "nano"),
            served_model_name=("nano", "other"),
            calibration=str(path),
        )
        caplog.clear()
        with TestClient(create_app(settings)) as client:
            assert decide(client, COLOUR)["answers"][0]["calibrated"] != is_told
        told = f"decisions of nano are not calibrated: {path} was made for another model"
        assert (told in caplog.messages) == is_told


def test_many_questions_about_one_picture(client: TestClient) -> None:
    image = Image.open(SCENE).resize((300, 220))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    shown = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    given = [{"role": "user", "content": [{"type": "input_image", "image_url": shown}]}]
    before = client.app.state.server.backend.stats()["nano"]["steps"]  # type: ignore[attr-defined]
    found = decide(client, *[STAR, COLOUR] * 32, given=given)
    after = client.app.state.server.backend.stats()["nano"]["steps"]  # type: ignore[attr-defined]
    assert len(found["answers"]) == 64
    assert len({json.dumps(each["type"]) for each in found["answers"]}) == 2
    firsts = {round(each["probability"], 2) for each in found["answers"][::2]}
    assert len(firsts) == 1
    pictures = after["slices"] - before["slices"]
    assert 0 < pictures <= 10


def test_decisions_end_with_their_time() -> None:
    backend = Waiting()
    app = create_app(ServeSettings(timeout=0.05), cast(Any, backend))
    with TestClient(app) as client:
        body = {"model": "nano", "input": "?", "questions": [STAR]}
        error = refused(client, body)
    assert (error["code"], error["param"]) == ("deadline_exceeded", "questions")
    assert backend.num_cancelled == 1


class Waiting:
    """A backend whose decisions never come."""

    num_cancelled = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def card(self, model: str) -> None: ...

    def stats(self) -> dict[str, Any]:
        return {}

    async def decide(self, job: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.num_cancelled += 1
