"""What is counted for a request, and that no client makes a new label."""

from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from minicpmv.engine.answer import Answer
from minicpmv.serve.jobs import Finished, Piece, Started
from minicpmv.serve.metrics import CLIENT_GONE, Metrics
from minicpmv.serve.routes.metrics import router


def samples(metrics):
    """By name and labels, as Prometheus reads the page."""
    text = metrics.render()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def risen(before, after):
    """What rose, of our counters and of the counts of histograms."""
    return {
        (
            name.removeprefix("minicpmv:"),
            *(value for key, value in labels if key != "model_name"),
        ): (after[name, labels] - before.get((name, labels), 0))
        for name, labels in after
        if name.startswith("minicpmv:")
        and name.endswith(("_total", "_count"))
        and after[name, labels] != before.get((name, labels), 0)
    }


def answer_of(text, num_output_tokens, finish_reason="stop"):
    return Answer(
        text,
        num_input_tokens=7,
        num_output_tokens=num_output_tokens,
        finish_reason=finish_reason,
        prompt_seconds=0.5,
        queue_seconds=0.2,
        decode_seconds=0.3,
    )


def test_counters_rise_by_the_usage_of_a_request():
    metrics = Metrics(models=["nano"])
    before = samples(metrics)
    record = metrics.request_started("nano")
    record.event(Started(7))
    for text in "a", "b", "c":
        record.event(Piece(0, text))
    record.event(Finished(0, answer_of("abc", 4)))
    record.end()
    record.end("internal_error")  # it is over
    assert risen(before, samples(metrics)) == {
        ("prompt_tokens_total",): 7,
        ("generation_tokens_total",): 4,
        ("request_success_total", "stop"): 1,
        ("time_to_first_token_seconds_count",): 1,
        ("inter_token_latency_seconds_count",): 2,
        ("request_time_per_output_token_seconds_count",): 1,
        ("e2e_request_latency_seconds_count",): 1,
        ("request_queue_time_seconds_count",): 1,
        ("request_prefill_time_seconds_count",): 1,
        ("request_decode_time_seconds_count",): 1,
        ("request_prompt_tokens_count",): 1,
        ("request_generation_tokens_count",): 1,
    }
    model = (("model_name", "nano"),)
    page = samples(metrics)
    assert page["minicpmv:request_queue_time_seconds_sum", model] == pytest.approx(0.2)
    assert page["minicpmv:request_prefill_time_seconds_sum", model] == pytest.approx(0.3)
    per_token = page["minicpmv:request_time_per_output_token_seconds_sum", model]
    assert per_token == pytest.approx(0.1)


def test_several_answers_share_their_prompt():
    metrics = Metrics(models=["nano"])
    before = samples(metrics)
    record = metrics.request_started("nano")
    record.event(Finished(1, answer_of("", 1)))
    record.event(Piece(0, "yes"))
    record.event(Finished(0, answer_of("yes", 2, "length")))
    record.end()
    found = risen(before, samples(metrics))
    assert found["prompt_tokens_total",] == found["request_prompt_tokens_count",] * 7 == 7
    assert found["generation_tokens_total",] == 3
    assert found["request_success_total", "stop"] == found["request_success_total", "length"] == 1
    assert found["time_to_first_token_seconds_count",] == 1
    assert found["request_generation_tokens_count",] == 2


def test_tokens_are_counted_as_they_come():
    metrics = Metrics(models=["nano"])
    before = samples(metrics)
    record = metrics.request_started("nano")
    record.event(Piece(0, "a", num_tokens=2))
    record.event(Piece(1, "b", num_tokens=1))
    assert risen(before, samples(metrics))["generation_tokens_total",] == 3
    record.event(Finished(0, answer_of("a", 5)))
    record.end(CLIENT_GONE)  # before the second was complete
    assert risen(before, samples(metrics))["generation_tokens_total",] == 6


def test_errors_are_counted_by_code_and_no_answer_with_them():
    metrics = Metrics(models=["nano"])
    before = samples(metrics)
    metrics.request_error("queue_full")
    record = metrics.request_started("nano")
    record.event(Started(7))
    record.end(CLIENT_GONE)
    assert risen(before, samples(metrics)) == {
        ("request_errors_total", "queue_full"): 1,
        ("request_errors_total", "client_gone"): 1,
    }


def test_clients_make_no_labels():
    metrics = Metrics(models=["nano"])
    for number in range(200):
        metrics.parameter_ignored(f"mine-{number}")
        metrics.request_error(f"code-{number}")
    metrics.parameter_ignored("mirostat")
    page = samples(metrics)
    ignored = {
        dict(labels)["name"]: value
        for (name, labels), value in page.items()
        if "name" in dict(labels)
    }
    assert ignored == {"other": 200, "mirostat": 1}
    codes = [labels for name, labels in page if name == "minicpmv:request_errors_total"]
    assert len(codes) == 65


def test_engines_are_read_when_somebody_looks():
    stats = {
        "nano": {
            "requests": {"running": 3, "waiting": 2},
            "prefixes": {
                "held_bytes": 25,
                "max_bytes": 100,
                "prompt_tokens": 50,
                "known_tokens": 30,
            },
            "features": {"hits": 4, "misses": 5},
        }
    }
    metrics = Metrics(models=["nano", "large"], stats=lambda: stats)
    page = samples(metrics)

    def of(name, model="nano"):
        return page[f"minicpmv:{name}", (("model_name", model),)]

    assert (of("num_requests_running"), of("num_requests_waiting")) == (3, 2)
    assert of("kv_cache_usage_perc") == 0.25
    assert (of("prefix_cache_queries_total"), of("prefix_cache_hits_total")) == (50, 30)
    assert (of("mm_cache_queries_total"), of("mm_cache_hits_total")) == (9, 4)
    assert of("num_preemptions_total") == 0
    assert of("num_requests_running", "large") == 0
    stats["nano"]["requests"]["running"] = 0
    page = samples(metrics)
    assert of("num_requests_running") == 0


def test_requests_are_running_where_no_engine_counts_them():
    metrics = Metrics(models=["nano"])
    records = [metrics.request_started("nano") for _ in range(3)]
    records[0].end()
    running = ("minicpmv:num_requests_running", (("model_name", "nano"),))
    assert samples(metrics)[running] == 2
    records[1].end()
    records[2].end("internal_error")
    assert samples(metrics)[running] == 0


def test_the_page_begins_with_zeros_and_has_no_times_of_creation():
    page = samples(Metrics(models=["nano"]))
    assert page["minicpmv:prompt_tokens_total", (("model_name", "nano"),)] == 0
    assert not [name for name, _ in page if name.endswith("_created")]
    assert page["process_resident_memory_bytes", ()] > 0


def test_every_application_has_counters_of_its_own():
    first, second = Metrics(models=["nano"]), Metrics(models=["nano"])
    first.request_error("queue_full")
    assert not [name for name, _ in samples(second) if name == "minicpmv:request_errors_total"]


def test_the_prefix_may_be_another():
    page = samples(Metrics(prefix="vllm", models=["nano"]))
    assert page["vllm:prompt_tokens_total", (("model_name", "nano"),)] == 0
    with pytest.raises(ValueError, match="--metrics-prefix is 'a b'; expected letters"):
        Metrics(prefix="a b")


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text; version=1.0.0"])
def test_names_keep_their_colon_whatever_the_scraper_accepts(accept):
    app = FastAPI()
    app.include_router(router)
    app.state.server = SimpleNamespace(metrics=Metrics(models=["nano"]))
    with TestClient(app) as client:
        answer = client.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'minicpmv:prompt_tokens_total{model_name="nano"} 0.0' in answer.text
