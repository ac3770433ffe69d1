"""Files for containers, Prometheus, Grafana and systemd: they can be read, and agree."""

import argparse
import configparser
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from minicpmv.cli import parse
from minicpmv.serve.metrics import Metrics
from minicpmv.serve.settings import ROWS, ServeSettings, read_settings

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "docs/grafana.json").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
DEFAULTS = ServeSettings()


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


def last_stage() -> list[tuple[str, str]]:
    lines = dockerfile()
    words = [word for word, _ in lines]
    return lines[len(words) - 1 - words[::-1].index("FROM") :]


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
    given = dict(last_stage())
    assert given["USER"].isdigit()
    assert int(given["USER"]) > 0
    assert "/health" in given["HEALTHCHECK"]
    assert json.loads(given["ENTRYPOINT"]) == ["minicpmv"]
    assert json.loads(given["CMD"]) == ["serve"]
    assert given["EXPOSE"] == container_port("server")
    assert all(re.search(r":\d", rest) for word, rest in dockerfile() if word == "FROM")
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
    for extras in (default, SERVICES["page"]["build"]["args"]["EXTRAS"]):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def flags_of(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


def test_commands_have_the_flags_that_are_given_to_them() -> None:
    unit_words = unit()["Service"]["ExecStart"].split()
    commands = [SERVICES["server"]["command"], SERVICES["page"]["command"], unit_words[1:]]
    assert Path(unit_words[0]).name == "minicpmv"
    for words in commands:
        args = argparse.Namespace()
        parse([word.replace("${MODEL:-nano}", "nano") for word in words], args)
        assert (args.models if words[0] == "serve" else args.base_url) or "--config" in words
    assert flags_of(unit_words) == {"--config"}


def test_variables_are_settings_of_the_server() -> None:
    names = {name for name, _ in re.findall(r"(MINICPMV_[A-Z_]+)=(\S+)", dict(last_stage())["ENV"])}
    names |= {name for name in SERVICES["server"]["environment"] if name.startswith("MINICPMV")}
    assert {name.removeprefix("MINICPMV_").lower() for name in names} <= set(ROWS)


def test_the_settings_of_the_service_are_read() -> None:
    settings = read_settings({}, {}, ROOT / "deploy/serve.yaml")
    assert (settings.model, settings.log_format) == (("nano",), "json")
    assert settings.max_body == 64 * 2**20
    lines = (ROOT / "deploy/serve.yaml").read_text(encoding="utf-8").splitlines()
    options = [line[2:] for line in lines if re.match(r"# [a-z-]+: \S+$", line)]
    assert len(options) == 2  # those that are shown as comments
    for line in options:
        assert next(iter(yaml.safe_load(line))).replace("-", "_") in ROWS


def test_ports_are_those_of_the_commands() -> None:
    assert container_port("server") == str(DEFAULTS.port)
    words = SERVICES["page"]["command"]
    assert container_port("page") == words[words.index("--port") + 1]
    assert words[words.index("--base-url") + 1].startswith(f"http://server:{DEFAULTS.port}")


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
