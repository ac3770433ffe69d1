"""The settings of the server: one table for flags, the environment and a YAML file.

A flag wins over a variable `MINICPMV_*`, and that over a line of the file given by `--config`.
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..addresses import without_password
from ..errors import ArgumentError, short
from .settings_table import Setting, default_of, row_of, rows, setting

PREFIX = "MINICPMV_"
# Without effect where other servers compute, and where none does.
OF_OWN = ("device", "dtype", "quantize", "mmproj", "memory_budget", "calibration")
OF_UPSTREAM = ("upstream_api_key",)
# Variables of other parts of the package, and what Kubernetes sets where a service has its name.
_OTHERS = re.compile(
    "(AXE|CONFIG|FONTS|GOLDEN|JUDGE_KEY|KERNELS|VLLM_ANY_VERSION|(TEST|UI)_.*"
    "|SERVICE_(HOST|PORT.*)|PORT_[0-9]+_.*)"
)
_OF_KUBERNETES = re.compile("(tcp|udp|sctp)://.*")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+")
_ROOT = re.compile(r"(/[^\s/?#%\x00-\x1f\x7f]+)*/?")
_KEY = re.compile(r"[^\s\x00-\x1f\x7f]+")
_HOST = re.compile(r"\.?\w[\w-]*(\.[\w-]+)*|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Every setting; `None` is "not limited" or "not given".

    Raises:
        ArgumentError: a value is of the wrong kind or out of range, or two do not fit together.
    """

    model: tuple[str, ...] = setting(
        ("nano",),
        "list",
        "folder, name on the hub, or nano (the default); several are loaded when they are first "
        "asked for",
        metavar="MODEL",
    )
    served_model_name: tuple[str, ...] = setting(
        (),
        "list",
        "names that clients use: several for one model, or one for each of several models",
        metavar="NAME",
    )
    host: str = setting("127.0.0.1", "text", "address to listen on", metavar="ADDRESS")
    port: int = setting(8000, "whole", "port to listen on; 0: any free one", least=0, most=65535)
    api_key: tuple[str, ...] = setting(
        (),
        "list",
        "a key that clients must send; may be repeated, for several",
        metavar="KEY",
        secret=True,
    )
    open_metrics: bool = setting(False, "switch", "show /metrics without a key")
    max_images: int = setting(64, "whole", "pictures in one request", least=0)
    max_pixels: int = setting(50_000_000, "size", "pixels of one picture", least=1)
    max_body: int = setting(64 * 2**20, "size", "bytes of one request", least=1024)
    max_video_mb: float = setting(64.0, "number", "megabytes of one video", above=0)
    max_video_seconds: float = setting(3600.0, "number", "seconds of one video", above=0)
    max_frames: int = setting(64, "whole", "frames taken from one video", least=1)
    max_queue: int = setting(256, "whole", "requests that wait beyond those answered", least=0)
    max_num_seqs: int = setting(64, "whole", "requests that are answered at a time", least=1)
    max_tokens: int | None = setting(
        None, "whole", "longest answer that a request may ask for, in tokens", least=1
    )
    timeout: float = setting(
        600.0, "number", "seconds after which an answer ends where it is", above=0
    )
    grace: float = setting(
        30.0, "number", "seconds that running answers get when the server is told to stop", least=0
    )
    keep_alive: float = setting(
        15.0, "number", "seconds of silence in a stream before a comment is sent", above=0
    )
    allowed_media_domains: tuple[str, ...] = setting(
        (), "list", "hosts that pictures may be fetched from; left out: any public one"
    )
    media_urls: bool = setting(
        True, "switch", "refuse pictures by http(s) address", off="no-media-urls"
    )
    allowed_local_media_path: str | None = setting(
        None, "path", "folder whose files clients may show by file:// address", metavar="FOLDER"
    )
    cors_origin: tuple[str, ...] = setting(
        (),
        "list",
        "a page's origin that browsers may ask from, or *; may be repeated",
        metavar="ORIGIN",
    )
    root_path: str = setting("", "text", "path under which a proxy shows the server")
    ssl_certfile: str | None = setting(None, "path", "certificate, for https", metavar="FILE")
    ssl_keyfile: str | None = setting(None, "path", "key of the certificate", metavar="FILE")
    log_format: str = setting("text", "text", "of the access log", choices=("text", "json"))
    metrics_prefix: str = setting(
        "minicpmv", "text", "what the names in /metrics begin with; vllm for its dashboards"
    )
    lenient: bool = setting(
        False, "switch", "ignore and count fields that are unknown or have no effect"
    )
    engine: str = setting(
        "own",
        "text",
        "what computes: own, or vllm servers behind this one",
        choices=("own", "vllm"),
    )
    upstream: tuple[str, ...] = setting(
        (), "list", "address of a vLLM server, with --engine vllm", metavar="URL"
    )
    upstream_api_key: str | None = setting(
        None, "text", "key that the servers of --upstream ask for", metavar="KEY", secret=True
    )
    memory_budget: int | None = setting(
        None,
        "size",
        "bytes for all models together; left out: nine tenths of what is free, for several models",
        least=1,
    )
    device: str = setting("auto", "text", "cpu, cuda, cuda:1, mps or auto (the default)")
    dtype: str = setting(
        "auto",
        "text",
        "float32, bfloat16, float16 or auto (the default): float32 for a small model on a CPU "
        "whose answers in bfloat16 would depend on what is computed beside",
    )
    quantize: str | None = setting(
        None,
        "text",
        "keep weights in 4 or 8 bits",
        choices=("int4", "int8", "nf4", "llm.int8"),
    )
    mmproj: str | None = setting(
        None, "path", "of a GGUF file, the one with its vision side", metavar="FILE"
    )
    calibration: str | None = setting(
        None, "path", "file of 'minicpmv calibrate', for /v1/decisions", metavar="FILE"
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value == each.default:
                continue
            object.__setattr__(self, each.name, row_of(each).read(value, flag_of(each.name)))
        self._check_together()

    def _check_together(self) -> None:
        if not self.model:
            raise ArgumentError("No model is named. Name one, or leave MODEL out for nano.")
        names = self.names
        if len(self.model) > 1 and len(names) != len(self.model):
            raise ArgumentError(
                f"--served-model-name has {len(names)} names for {len(self.model)} models; give "
                "one for each."
            )
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ArgumentError(
                f"{twice!r} is served twice. Give each model a name of its own with "
                "--served-model-name."
            )
        if self.mmproj is not None and len(self.model) > 1:
            raise ArgumentError("--mmproj belongs to one GGUF file; serve that alone.")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ArgumentError("--ssl-certfile and --ssl-keyfile belong together; give both.")
        if (self.engine == "vllm") != bool(self.upstream):
            raise ArgumentError("--engine vllm and --upstream belong together; give both.")
        unused = OF_OWN if self.engine == "vllm" else OF_UPSTREAM
        for name in unused:
            if getattr(self, name) != default_of(ServeSettings, name):
                raise ArgumentError(
                    f"{flag_of(name)} has no effect with --engine {self.engine}; remove it."
                )
        if self.root_path and not self.root_path.startswith("/"):
            raise ArgumentError(f"--root-path is {self.root_path!r}; it must begin with a /.")
        if not _ROOT.fullmatch(self.root_path):
            raise ArgumentError(
                f"--root-path is {short(self.root_path)}; expected a path as in /models, without "
                "blanks, ?, # and %."
            )
        sent = {"api_key": self.api_key, "upstream_api_key": (self.upstream_api_key or "none",)}
        for name, keys in sent.items():
            if not all(map(_KEY.fullmatch, keys)):
                raise ArgumentError(
                    f"{flag_of(name)} has blanks or control characters, which no client can send. "
                    "Leave them out."
                )
        wrong = next((each for each in self.cors_origin if not _ORIGIN.fullmatch(each)), None)
        if wrong is not None:
            raise ArgumentError(
                f"--cors-origin is {wrong!r}; expected what browsers send, as "
                "https://app.example.org or http://localhost:3000, without a path, or *."
            )
        wrong = next((each for each in self.allowed_media_domains if not _HOST.fullmatch(each)), "")
        if wrong:
            raise ArgumentError(
                f"--allowed-media-domains has {wrong!r}; expected names of hosts, as "
                "images.example.org, or .example.org for all below."
            )
        if not self.media_urls and self.allowed_media_domains:
            raise ArgumentError(
                "--allowed-media-domains has no effect beside --no-media-urls; remove one."
            )

    @property
    def shown(self) -> str:
        """What is served, for a line of the log: models, or where they are."""
        if self.engine == "own":
            return ", ".join(self.names)
        return ", ".join(map(without_password, self.upstream))

    @property
    def names(self) -> tuple[str, ...]:
        """Names that clients use, the first of each model first."""
        return self.served_model_name or self.model

    @property
    def models(self) -> dict[str, str]:
        """Where each name's model is."""
        places = self.model if len(self.model) > 1 else self.model * len(self.names)
        return dict(zip(self.names, places, strict=True))


def flag_of(name: str) -> str:
    row = ROWS[name]
    return f"--{row.off or name.replace('_', '-')}"


ROWS: dict[str, Setting] = rows(ServeSettings)
# Every way in which a setting is named, as `media_urls` and `no_media_urls`.
_WRITTEN = {(row.off or name).replace("-", "_"): name for name, row in ROWS.items()}
_WRITTEN |= {name: name for name in ROWS}


def read_settings(
    flags: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    config: str | Path | None = None,
) -> ServeSettings:
    """The settings from all three places.

    Args:
        flags: those that were given, by the names of the fields.
        environment: `os.environ` by default.
        config: the YAML file; `MINICPMV_CONFIG` where it is None.

    Raises:
        OSError: the file cannot be read.
        ArgumentError: a key is unknown, or a value is wrong.
    """
    environment = os.environ if environment is None else environment
    config = config or environment.get(f"{PREFIX}CONFIG")
    values = _of_file(Path(config)) if config else {}
    values |= _of_environment(environment)
    values |= {name: row.read(flags[name], flag_of(name)) for name, row in _given(flags)}
    return ServeSettings(**values)


def _given(flags: Mapping[str, Any]) -> list[tuple[str, Setting]]:
    unknown = next((name for name in flags if name not in ROWS), None)
    if unknown is not None:
        raise ArgumentError(f"{unknown!r} is not a setting.{_meant(unknown, list(ROWS))}")
    return [(name, ROWS[name]) for name in flags]


def _of_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    known = {f"{PREFIX}{name.upper()}": name for name in _WRITTEN}
    for variable in sorted(environment):
        value, name = environment[variable], variable.removeprefix(PREFIX)
        if name == variable or _OTHERS.fullmatch(name) or _OF_KUBERNETES.match(value):
            continue
        if variable not in known:
            raise ArgumentError(
                f"{variable} is not a setting of the server.{_meant(variable, list(known))}"
            )
        if value.strip():  # set to nothing: not set
            _put(values, known[variable], value, variable, variable)
    return values


def _put(values: dict[str, Any], written: str, value: Any, shown: str, twice: str) -> None:
    """Read one setting; `no_media_urls: true` is `media_urls: false`, as the flag is."""
    name = _WRITTEN[written]
    if name in values:
        raise ArgumentError(f"{twice} is set twice.")
    found = ROWS[name].read(value, shown)
    values[name] = found if written == name else not found


def _of_file(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [each.value for each, _ in node.value]
            twice = next((each for each in keys if keys.count(each) > 1), None)
            if twice is not None:
                raise ArgumentError(f"{path}: {short(twice)} is set twice.")
            return super().construct_mapping(node, deep)

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except ArgumentError:
        raise
    except RecursionError:
        raise ArgumentError(f"{path} is nested too deeply; expected 'setting: value'.") from None
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # the latter of 2026-13-45
        raise ArgumentError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ArgumentError(f"{path} is {short(found)}; expected lines 'setting: value'.")
    values: dict[str, Any] = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        name = "model" if name == "models" else name
        if name not in _WRITTEN:
            known = [known.replace("_", "-") for known in _WRITTEN]
            raise ArgumentError(f"{path}: {short(key)} is not a setting.{_meant(str(key), known)}")
        if value is not None:
            _put(values, name, value, f"{path}: {key}", f"{path}: {key!r}")
    return values


def _meant(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else " All: minicpmv serve --help."
