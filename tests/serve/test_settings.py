import re
from pathlib import Path

import pytest

import minicpmv
from minicpmv.errors import ArgumentError
from minicpmv.serve.settings import ROWS, ServeSettings, flag_of, read_settings


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path):
    file = tmp_path / "server.yaml"
    file.write_text("port: 1\nmax-queue: 2\nhost: 0.0.0.0\n")
    environment = {"MINICPMV_PORT": "3", "MINICPMV_MAX_QUEUE": "4"}
    settings = read_settings({"port": 5}, environment, file)
    assert (settings.port, settings.max_queue, settings.host) == (5, 4, "0.0.0.0")


def test_the_file_may_be_named_by_the_environment(tmp_path):
    file = tmp_path / "server.yaml"
    file.write_text("max_body: 1MiB\nmodels: [nano]\nlenient: yes\ntimeout: 2.5\n")
    settings = read_settings({}, {"MINICPMV_CONFIG": str(file)})
    assert (settings.max_body, settings.lenient, settings.timeout) == (2**20, True, 2.5)


def test_every_setting_is_read_from_all_three_places(tmp_path):
    values = {
        "text": "there",
        "path": "folder",
        "whole": "70",
        "number": "1.5",
        "size": "2KiB",
        "switch": "true",
        "list": "a, b",
    }
    alone = {"ssl_certfile", "ssl_keyfile", "engine", "upstream", "served_model_name", "model"}
    alone.add("upstream_api_key")
    for name, row in ROWS.items():
        if name in alone:
            continue
        value = row.choices[-1] if row.choices else values[row.kind]
        value = {"root_path": "/there", "cors_origin": "http://a, *"}.get(name, value)
        by_environment = read_settings({}, {f"MINICPMV_{name.upper()}": value})
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"{name.replace('_', '-')}: {value!r}\n")
        by_file = read_settings({}, {}, file)
        given = value.replace(",", "").split() if row.kind == "list" else value
        by_flag = read_settings({name: given}, {})
        assert by_flag == by_environment == by_file, name
        assert name == "media_urls" or by_flag != ServeSettings(), name


@pytest.mark.parametrize(
    ("text", "value"),
    [("100", 100), ("2k", 2000), ("50M", 50_000_000), ("64MiB", 2**26), ("1.5Gi", 3 * 2**29)],
)
def test_sizes_have_units(text, value):
    assert ServeSettings(max_pixels=text).max_pixels == value


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": "many"}, "--port is 'many'; expected a whole number"),
        ({"port": 70000}, "--port is 70000; it must be at most 65535"),
        ({"port": True}, "--port is True; expected a whole number"),
        ({"timeout": float("nan")}, "--timeout is nan; expected a finite number"),
        ({"timeout": 10**400}, "--timeout is a number of 1329 bits; expected one of at most 63"),
        ({"max_queue": "9" * 400}, "--max-queue is a number of 1329 bits"),
        ({"max_queue": "9" * 5000}, "--max-queue is '9999.*; expected a whole number"),
        ({"max_body": "9" * 400 + "T"}, "--max-body is a number of 13"),
        ({"max_body": 2**63}, "--max-body is a number of 64 bits; expected one of at most 63"),
        ({"max_body": "64iB"}, "--max-body is '64iB'"),
        ({"log_format": "xml"}, "--log-format is 'xml'; expected one of text, json"),
        ({"model": ()}, "No model is named"),
        ({"model": ["a", "b"], "served_model_name": ["c"]}, "1 names for 2 models"),
        ({"model": ["a", "a"]}, "'a' is served twice"),
        ({"ssl_certfile": "a.pem"}, "--ssl-certfile and --ssl-keyfile belong together"),
        ({"engine": "vllm"}, "--engine vllm and --upstream belong together"),
        ({"upstream": ["http://a"]}, "--engine vllm and --upstream belong together"),
        ({"root_path": "x"}, "--root-path is 'x'; it must begin with a /"),
        ({"root_path": "/a b\n"}, "--root-path is '/a b.*; expected a path as in /models"),
        ({"root_path": "//"}, "--root-path is '//'; expected a path as in /models"),
        ({"api_key": ["good", " a"]}, "--api-key has blanks or control characters, which no"),
        ({"api_key": ["a\nb"]}, "--api-key has blanks or control characters"),
        (
            {"engine": "vllm", "upstream": ["http://a"], "upstream_api_key": "a b"},
            "--upstream-api-key has blanks",
        ),
        ({"upstream_api_key": "a"}, "--upstream-api-key has no effect with --engine own; remove"),
        *(
            (
                {"engine": "vllm", "upstream": ["http://a"], name: value},
                f"--{name.replace('_', '-')} has no effect with --engine vllm",
            )
            for name, value in {
                "device": "cpu",
                "dtype": "float32",
                "quantize": "int4",
                "mmproj": "a.gguf",
                "memory_budget": 1,
                "calibration": "a.json",
            }.items()
        ),
        ({"media_urls": False, "allowed_media_domains": ["a"]}, "--allowed-media-domains has no"),
        ({"cors_origin": ["a.example"]}, "--cors-origin is 'a.example'; expected what browsers"),
        ({"cors_origin": ["*", "https://a.example/"]}, "--cors-origin is 'https://a.example/'"),
        ({"allowed_media_domains": ["https://a.org"]}, "--allowed-media-domains has 'https://a"),
        ({"allowed_media_domains": [".a.org", "b.org:80"]}, "--allowed-media-domains has 'b.org:"),
    ],
)
def test_what_cannot_be_is_refused_by_name(flags, message):
    with pytest.raises(ArgumentError, match=message):
        read_settings(flags, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot: 1", "'prot' is not a setting. Did you mean 'port'?"),
        ("port: x", "port is 'x'; expected a whole number"),
        ("port: 1\nPort: 2", "'Port' is not a setting"),
        ("max-queue: 1\nmax_queue: 2", "'max_queue' is set twice"),
        ("port: 1\nport: 2", "'port' is set twice"),
        ("[1]", "expected lines 'setting: value'"),
        ("a: b: c", "is not YAML"),
        ("port: 2026-13-45", "is not YAML: month must be in 1..12"),
        (f"max-queue: {'9' * 5000}", "is not YAML: Exceeds the limit"),
        (f"max-queue: 0x{'f' * 5000}", "max-queue is a number of 20000 bits"),
        (f"max-queue: -0x{'f' * 5000}", "max-queue is a number of 20000 bits"),
        ("max-queue: .inf", "max-queue is inf; expected a finite number"),
        (f"model: {'[' * 3000}{']' * 3000}", "is nested too deeply"),
        ("model: &a [*a]", "model is [[...]]; expected a list of texts"),
        ("model: 2.6", "model is 2.6; expected a list of texts, in quotes where YAML reads"),
        ("model: [nano, 2.6]", "model is ['nano', 2.6]; expected a list of texts, in quotes where"),
        ("api-key: 12345", "api-key is 12345; expected a list of texts, in quotes where YAML"),
        ("host: 2026-11-29", "expected text, in quotes where YAML reads something else"),
        ("root-path: yes", "root-path is True; expected text, in quotes where YAML reads"),
        ("host: [a]", "host is ['a']; expected text."),
        ("no-media-urls: true\nmedia-urls: true", "'media-urls' is set twice"),
    ],
)
def test_a_wrong_file_is_refused_by_line(tmp_path, text, message):
    file = tmp_path / "server.yaml"
    file.write_text(text)
    with pytest.raises(ArgumentError) as caught:
        read_settings({}, {}, file)
    assert message in str(caught.value)


def test_an_unknown_variable_is_refused_and_those_of_others_are_not():
    with pytest.raises(ArgumentError, match="Did you mean 'MINICPMV_PORT'"):
        read_settings({}, {"MINICPMV_PROT": "1"})
    others = {
        "MINICPMV_KERNELS": "0",
        "MINICPMV_PORT": "",
        "MINICPMV_UI_API_KEY": "a",
        "HOME": "/root",
    }
    assert read_settings({}, others) == ServeSettings()


def test_commas_alone_are_no_key():
    with pytest.raises(ArgumentError, match="MINICPMV_API_KEY is ' , '; expected a list of texts"):
        read_settings({}, {"MINICPMV_API_KEY": " , "})
    assert read_settings({}, {"MINICPMV_API_KEY": " a, b,"}).api_key == ("a", "b")


def test_variables_of_the_rest_of_the_package_stop_no_server():
    package = Path(minicpmv.__file__).parent
    texts = [file.read_text(encoding="utf-8") for file in package.rglob("*.py")]
    found = {name for text in texts for name in re.findall(r"\bMINICPMV_[A-Z_]*[A-Z]\b", text)}
    assert {"MINICPMV_JUDGE_KEY", "MINICPMV_KERNELS", "MINICPMV_FONTS"} <= found
    own = {f"MINICPMV_{name.upper()}" for name in ROWS} | {"MINICPMV_CONFIG"}
    assert read_settings({}, dict.fromkeys(found - own, "1")) == ServeSettings()


def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_setting():
    set_there = {
        "MINICPMV_PORT": "tcp://10.0.0.1:80",
        "MINICPMV_PORT_80_TCP_ADDR": "10.0.0.1",
        "MINICPMV_SERVICE_HOST": "10.0.0.1",
        "MINICPMV_SERVICE_PORT_HTTP": "80",
    }
    assert read_settings({}, set_there) == ServeSettings()


def test_one_model_may_have_several_names():
    settings = ServeSettings(model=("nano",), served_model_name=("a", "b/c"))
    assert settings.models == {"a": "nano", "b/c": "nano"}
    assert ServeSettings(model=("x", "y")).models == {"x": "x", "y": "y"}


def test_flags_say_no_where_the_setting_says_yes():
    assert flag_of("media_urls") == "--no-media-urls"
    assert flag_of("max_num_seqs") == "--max-num-seqs"


def test_a_flag_that_says_no_may_stand_in_the_file_and_the_environment(tmp_path):
    file = tmp_path / "server.yaml"
    file.write_text("no-media-urls: true\n")
    assert read_settings({}, {}, file) == read_settings({"media_urls": False}, {})
    assert not read_settings({}, {"MINICPMV_NO_MEDIA_URLS": "1"}).media_urls
    assert read_settings({}, {"MINICPMV_NO_MEDIA_URLS": "0"}).media_urls
    assert not read_settings({}, {"MINICPMV_MEDIA_URLS": "0"}).media_urls
    with pytest.raises(ArgumentError, match="MINICPMV_NO_MEDIA_URLS is set twice"):
        read_settings({}, {"MINICPMV_MEDIA_URLS": "1", "MINICPMV_NO_MEDIA_URLS": "1"})


def test_passwords_in_addresses_are_not_shown():
    upstream = ("http://me:secret@a:1", "http://b")
    settings = ServeSettings(engine="vllm", upstream=upstream)
    assert settings.shown == "http://a:1, http://b"
    assert ServeSettings(model=("a", "b")).shown == "a, b"


def test_keys_are_not_shown():
    settings = ServeSettings(
        api_key=("secret",), engine="vllm", upstream=("http://a",), upstream_api_key="secret"
    )
    assert "secret" not in repr(settings)
