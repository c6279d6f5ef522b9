"""Settings: defaults, forms, files, and errors of one line that give no secret away."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.settings import Settings, SettingsError, cannot_listen, each_redis, load, redis_url, unknown_variables

DEFAULTS = {
    "redis_url": None,
    "handlers": "workers.printing:handlers",
    "listen": ("0.0.0.0", 8080),
    "admin_listen": ("127.0.0.1", 9100),
    "path": "/webhook",
    "app_secret": None,
    "verify_token": None,
    "spool_dir": None,
    "durability": "redis",
    "max_body": 4 * 1024 * 1024,
    "lanes": ("messages", "statuses", "other"),
    "processes": 1,
    "partitions": 32,
    "business_partitions": None,
    "batch": 500,
    "dedup_window": 25 * 3600,
    "max_attempts": 8,
    "max_age": 7 * 86400,
    "handler_timeout": 30.0,
    "concurrency": 100,
    "keepalive": 620.0,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default(name: str) -> None:
    """Every default is the one that is promised."""
    assert getattr(load(), name) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("30s", 30),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("15m", 900),
        ("25h", 90_000),
        ("7d", 604_800),
        (" 2 s ", 2),
    ],
)
def test_duration(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    """A duration is a number with ms, s, m, h or d behind it; a bare number means seconds."""
    monkeypatch.setenv("WA_HANDLER_TIMEOUT", text)
    assert load().handler_timeout == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("4MiB", 4 << 20), ("4 MiB", 4 << 20), ("1MB", 1_000_000), ("64kib", 64 << 10), ("2G", 2 * 10**9)],
)
def test_size(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    """A size is a number of bytes, or has a decimal or binary unit."""
    monkeypatch.setenv("WA_MAX_RSS", text)
    assert load().max_rss == size


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        (":8080", ("0.0.0.0", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9100", ("::1", 9100)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_address(monkeypatch: pytest.MonkeyPatch, text: str, address: tuple[str, int]) -> None:
    """An address is host:port; no host means all, and an IPv6 host stands in brackets."""
    monkeypatch.setenv("WA_LISTEN", text)
    assert load().listen == address


def test_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is separated by commas, spaces around its parts do not count, its order is kept."""
    monkeypatch.setenv("WA_LANES", " other , messages,")
    assert load().lanes == ("other", "messages")


def test_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable means the default: compose files pass `${NAME:-}`."""
    for name in DEFAULTS:
        monkeypatch.setenv(f"WA_{name.upper()}", "")
    assert load() == Settings()
    assert load().app_secret is None


def test_file_holds_the_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`NAME_FILE` gives the value of any setting, without the line end."""
    for name, value in {"APP_SECRET": "s3cret\n", "LISTEN": "127.0.0.1:1\n", "MAX_BODY": "1MiB"}.items():
        (tmp_path / name).write_text(value)
        monkeypatch.setenv(f"WA_{name}_FILE", str(tmp_path / name))
    found = load()
    assert found.app_secret is not None
    assert found.app_secret.get_secret_value() == "s3cret"
    assert (found.listen, found.max_body) == (("127.0.0.1", 1), 1 << 20)


def test_variable_beats_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable itself counts more than its file, the command line more than both; None there means not given."""
    (tmp_path / "batch").write_text("7")
    monkeypatch.setenv("WA_BATCH_FILE", str(tmp_path / "batch"))
    assert load(batch=None).batch == 7
    monkeypatch.setenv("WA_BATCH", "8")
    assert load().batch == 8
    assert load(batch=9).batch == 9


@pytest.mark.parametrize("text", ["", "\n", " \t\n"])
def test_empty_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """A file that holds nothing is one line: a secret that got lost must not turn its guard off."""
    (tmp_path / "secret").write_text(text)
    monkeypatch.setenv("WA_APP_SECRET_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match=rf"^WA_APP_SECRET_FILE: {tmp_path}/secret is empty; write the value into"):
        load()


def test_file_may_say_that_nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`# not set` in a file means the default; the file that the compose files mount for what is not given says so."""
    for file in (tmp_path / "token", Path(__file__).parents[3] / "deploy" / "not-set"):
        if file.name == "token":
            file.write_text("# not set")
        monkeypatch.setenv("WA_VERIFY_TOKEN_FILE", str(file))
        assert load().verify_token is None


def test_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing file, a folder and a file that is no text are one line each that names the variable and the file."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path, reason in {
        "none": "No such file or directory",
        ".": "Is a directory",
        "binary": "it is not text",
    }.items():
        monkeypatch.setenv("WA_APP_SECRET_FILE", str(tmp_path / path))
        with pytest.raises(SettingsError) as caught:
            load()
        assert str(caught.value) == f"WA_APP_SECRET_FILE: cannot read {tmp_path / path}: {reason}"


WRONG = [
    ("HANDLERS", "workers.printing"),
    ("HANDLERS", "a b:c"),
    ("LISTEN", "8080"),
    ("LISTEN", "host:http"),
    ("LISTEN", "host:65536"),
    ("LISTEN", "host:-1"),
    ("ADMIN_LISTEN", "host:²"),
    ("PATH", "webhook"),
    ("PATH", "/a b"),
    ("APP_SECRET", ","),
    ("APP_SECRET", " , "),
    ("APP_SECRET", " "),
    ("DURABILITY", "disk"),
    ("DURABILITY", "replicas:0"),
    ("DURABILITY", "replicas:"),
    ("MAX_BODY", "big"),
    ("MAX_BODY", "0"),
    ("MAX_BODY", "-1"),
    ("MAX_PENDING", "4 MiX"),
    ("MAX_CONNECTIONS", "0"),
    ("BASIC_AUTH", "user"),
    ("BASIC_AUTH", "user:password,with comma"),
    ("BASIC_AUTH", ","),
    ("HEADER_SECRET", "a word"),
    ("HEADER_SECRET", "X-Key:"),
    ("KEEP_HEADERS", "X-Turn-Event: message"),
    ("HEADER_SECRET", "X-Key:ok,two words"),
    ("PATH", "webhook"),
    ("PATH", "/web hook"),
    ("PATH", "/web+hook"),
    ("PATH", "/webhook?x"),
    ("PATH_SECRET", "short"),
    ("PATH_SECRET", "with/slash-and-more-than-16"),
    ("ALLOW_NETWORKS", "10.0.0.0/33"),
    ("ALLOW_NETWORKS", "10.0.0.1/8"),
    ("ALLOW_NETWORKS", "example.com"),
    ("TRUSTED_PROXIES", "10.0.0.0/8;192.168.0.0/16"),
    ("BODY_TIMEOUT", "soon"),
    ("BODY_TIMEOUT", "0"),
    ("HANDLER_TIMEOUT", "-1s"),
    ("HANDLER_TIMEOUT", "1w"),
    ("LANES", "messages,stati"),
    ("LANES", ","),
    ("DEDUP_WINDOW", "8d"),
    ("PROCESSES", "two"),
    ("PROCESSES", "0"),
    ("PARTITIONS", "256"),
    ("PARTITIONS", "1.5"),
    ("BATCH", "0"),
    ("MAX_ATTEMPTS", "128"),
    ("CONCURRENCY", "0"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A wrong value is one line that names the variable."""
    monkeypatch.setenv(f"WA_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).startswith(f"WA_{name}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "name", ["APP_SECRET", "REDIS_URL", "VERIFY_TOKEN", "BASIC_AUTH", "HEADER_SECRET", "PATH_SECRET"]
)
def test_no_secret_in_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The line about one wrong variable quotes the secret of no other."""
    monkeypatch.setenv(f"WA_{name}", "hunter2")
    monkeypatch.setenv("WA_BATCH", "many")
    with pytest.raises(SettingsError) as caught:
        load()
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_cert": "c"}, "WA_TLS_CERT needs its private key: set WA_TLS_KEY"),
        ({"tls_key": "k"}, "WA_TLS_KEY needs its certificate: set WA_TLS_CERT"),
        ({"tls_client_ca": "c"}, "WA_TLS_CLIENT_CA works only where TLS ends here: set WA_TLS_CERT"),
        (
            {"tls_client_name": "n"},
            "WA_TLS_CLIENT_NAME is checked only in certificates that a CA vouches for: set WA_TLS_CLIENT_CA",
        ),
        (
            {"max_body": 11, "max_pending": 10},
            "WA_MAX_PENDING is less than WA_MAX_BODY: no room for one body of that size",
        ),
    ],
)
def test_settings_that_need_each_other(given: dict[str, object], message: str) -> None:
    """A guard that would guard nothing, because another setting is missing, stops the start."""
    with pytest.raises(SettingsError) as caught:
        load(**given)
    assert str(caught.value) == message


def test_networks() -> None:
    """Networks of both families and single addresses, as a list; shown in the form in which they can be set."""
    found = load(allow_networks=" 10.0.0.0/8,192.0.2.1, 2001:db8::/32 ")
    assert [str(network) for network in found.allow_networks] == ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]
    shown = found.model_dump(mode="json")["allow_networks"]
    assert load(allow_networks=shown) == found
    assert load().model_dump(mode="json")["allow_networks"] is None


def test_start_prints_one_line(start_receiver, redis_url: str) -> None:
    """A receiver with a wrong setting says so in one line, without a traceback, and asks not to be started again."""
    receiver = start_receiver(redis_url, ready=False, WA_BATCH="many")
    assert receiver.process.wait(30) == 78
    assert receiver.log().startswith("wa-ingest: WA_BATCH: ")
    assert receiver.log().count("\n") == 1


def test_secrets_are_masked() -> None:
    """What `wa-ingest settings` prints holds no secret, and the rest in the form in which it is set."""
    names = ("app_secret", "verify_token", "redis_url", "basic_auth", "header_secret", "path_secret")
    secret = dict.fromkeys(names, "hunter2:hunter2") | {"path_secret": "hunter2hunter2hunter2"}
    shown = load(**secret, handler_timeout="90m", listen=":80", admin_listen="[::1]:81", lanes="other").model_dump(
        mode="json"
    )
    assert {shown[name] for name in secret} == {"**********"}
    assert "hunter2" not in str(load(**secret))
    assert (shown["handler_timeout"], shown["listen"], shown["admin_listen"]) == ("90m", "0.0.0.0:80", "[::1]:81")
    assert (shown["max_body"], shown["lanes"]) == ("4.0MiB", "other")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "handler_timeout": st.integers(1, 10**9).map(lambda ms: ms / 1000),
            "listen": st.tuples(st.sampled_from(["0.0.0.0", "::1", "a.example"]), st.integers(0, 65535)),
            "lanes": st.permutations(["messages", "statuses", "other"]).map(tuple),
        },
    )
)
def test_shown_form_can_be_set(values: dict[str, object]) -> None:
    """A duration, address or list can be set in the form in which it is shown."""
    first = load(**values)
    shown = first.model_dump(mode="json", include=set(values))
    again = load(**shown)
    assert again.listen == first.listen
    assert again.lanes == first.lanes
    assert again.handler_timeout == first.handler_timeout


def test_unknown_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Misspelt variables are named; settings, their files and other programs' variables are not."""
    for name in ("WA_BATHC", "WA_BATCH", "WA_BATCH_FILE", "WA_TYPO_FILE", "PATH_WA_", "WAX"):
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == ["WA_BATHC", "WA_TYPO_FILE"]


def test_redis_url_is_asked_for() -> None:
    """Without WA_REDIS_URL every command but `up` ends with a line that names it."""
    assert redis_url(load(redis_url="redis://h")) == "redis://h"
    with pytest.raises(SettingsError, match=r"^WA_REDIS_URL is not set: .*wa-ingest up"):
        redis_url(load())


def test_each_redis_is_another_one() -> None:
    """The same server twice is refused, whoever asks for it; its databases are several Redis."""
    for url in ("redis://h:1/0,redis://user:pass@h:1/0?ssl_ca_certs=x", "unix:///s?db=1,unix:///s?db=1&health=2"):
        with pytest.raises(SettingsError, match="names the same Redis twice"):
            each_redis(load(redis_url=url))
    assert len(each_redis(load(redis_url="redis://h:1/0,redis://h:1/1,unix:///s?db=0,unix:///s?db=1"))) == 4


@pytest.mark.parametrize(
    ("number", "port", "says"),
    [
        (errno.EACCES, 443, "Permission denied; take another port, as WA_LISTEN=0.0.0.0:8443 does"),
        (errno.EADDRINUSE, 8080, "Address already in use; take another port, as WA_LISTEN=0.0.0.0:8081 does"),
        (errno.EADDRNOTAVAIL, 8080, "Cannot assign requested address"),
    ],
)
def test_another_port(number: int, port: int, says: str) -> None:
    """Where another port helps, the error has an example of one, and nowhere else."""
    said = str(cannot_listen("listen", ("0.0.0.0", port), OSError(number, "")))
    assert said == f"WA_LISTEN: cannot listen on 0.0.0.0:{port}: {says}"
