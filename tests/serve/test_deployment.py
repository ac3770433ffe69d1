"""Files for containers, Prometheus, Grafana and systemd: they can be read, and agree."""

import configparser
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from minicpmv.serve.metrics import Metrics

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "docs/grafana.json").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def dockerfile() -> list[tuple[str, str]]:
    """Instructions with their arguments, lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", lines)
    found = []
    for line in filter(None, lines.splitlines()):
        word, _, rest = line.strip().partition(" ")
        found.append((word, rest.strip()))
    return found


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "deploy/minicpmv.service", encoding="utf-8")
    return parser


def board_queries() -> list[str]:
    targets = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    return targets + [v["definition"] for v in BOARD["templating"]["list"] if "definition" in v]


def test_every_metric_of_the_board_exists() -> None:
    metrics = Metrics(models=["nano"])
    metrics.request_error("queue_full")
    metrics.parameter_ignored("mirostat")
    text = metrics.render()[0].decode()
    families = text_string_to_metric_families(text)
    names = {sample.name for family in families for sample in family.samples}
    asked = set()
    for query in board_queries():
        asked |= {f"minicpmv:{name}" for name in re.findall(r"\$\{prefix\}:(\w+)", query)}
        asked |= set(re.findall(r"process_\w+", query))
    assert asked <= names
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in names if ":" in name}
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in asked}
    # Those of one request that a panel shows in another way.
    assert ours - shown == set()


def test_panels_of_the_board_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & cells
        assert at["x"] + at["w"] <= 24
        cells |= own
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_grafana_finds_its_board_and_prometheus_the_server() -> None:
    mounts = dict(
        volume.removesuffix(":ro").split(":")
        for name in ("grafana", "prometheus")
        for volume in SERVICES[name]["volumes"]
        if volume.startswith("./")
    )
    for source in mounts:
        assert (ROOT / source).is_file()
    provider = read_yaml("deploy/grafana/dashboard.yml")["providers"][0]
    assert mounts["./docs/grafana.json"].startswith(provider["options"]["path"] + "/")
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == mounts["./docs/grafana.json"]
    source = read_yaml("deploy/grafana/datasource.yml")["datasources"][0]
    assert source["url"] == f"http://prometheus:{container_port('prometheus')}"
    scrape = read_yaml("deploy/prometheus.yml")["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == [f"server:{container_port('server')}"]
    assert scrape["metrics_path"] == "/metrics"
    interval = read_yaml("deploy/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval


def container_port(service: str) -> str:
    return str(SERVICES[service]["ports"][0]).split(":")[-1]


def test_services_are_open_on_this_machine_alone_and_named_by_version() -> None:
    volumes = set()
    for name, service in SERVICES.items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:")
        if "build" not in service:
            assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        else:
            assert service["cap_drop"] == ["ALL"]
        volumes |= {v.split(":")[0] for v in service.get("volumes", []) if v[0] != "."}
        needed = service.get("depends_on", [])
        assert set(needed) <= set(SERVICES) - {name}
    assert volumes == set(COMPOSE["volumes"])


def test_the_image_runs_without_root_and_says_whether_it_is_well() -> None:
    lines = dockerfile()
    words = [word for word, _ in lines]
    last_stage = lines[len(words) - 1 - words[::-1].index("FROM") :]
    given = dict(last_stage)
    assert given["USER"].isdigit()
    assert int(given["USER"]) > 0
    assert "/health" in given["HEALTHCHECK"]
    assert json.loads(given["ENTRYPOINT"]) == ["minicpmv"]
    assert json.loads(given["CMD"]) == ["serve"]
    assert given["EXPOSE"] == container_port("server")
    assert all(re.search(r":\d", rest) for word, rest in lines if word == "FROM")
    check = json.loads(given["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[-1], "HEALTHCHECK", "exec")


def test_what_the_image_copies_is_not_ignored_and_is_there() -> None:
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copied = {
        name
        for word, rest in dockerfile()
        if word == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    }
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_extras_of_the_images_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    default = dict(rest.split("=") for word, rest in dockerfile() if word == "ARG")["EXTRAS"]
    for extras in (default,):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_torch_of_the_image_is_one_that_the_package_takes() -> None:
    asked = next(
        re.search(r'"(torch>[^"]+)"', rest) for word, rest in dockerfile() if word == "RUN"
    )
    assert asked is not None
    assert f'"{asked[1]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_service_ends_answers_before_it_is_killed() -> None:
    service = unit()["Service"]
    grace = read_yaml("deploy/serve.yaml")["grace"]
    assert int(service["TimeoutStopSec"]) > grace
    assert int(SERVICES["server"]["stop_grace_period"].removesuffix("s")) > grace


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("CapabilityBoundingSet", ""),
    ],
)
def test_the_service_is_fenced_in(key: str, value: str) -> None:
    assert unit()["Service"][key] == value


def test_the_service_writes_only_into_its_own_folder() -> None:
    service = unit()["Service"]
    folder = f"/var/cache/{service['CacheDirectory']}"
    variables = dict(each.split("=") for each in service["Environment"].split())
    assert all(value.startswith(folder) for value in variables.values() if "/" in value)
