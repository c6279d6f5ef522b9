"""`wa-ingest coreapp`: settings, the webhook's CA, health; and a whole set-up with real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import Result
from cryptography import x509

from tests.workers.setup.apis import CA, SETTINGS, Coreapp, Wa

ROOT = Path(__file__).parents[3]
READ, CHANGE = f"GET {SETTINGS}", f"PATCH {SETTINGS}"
URL = "https://example.com/webhook"
RUN = Callable[..., Result]


def failed(result: Result, *parts: str) -> None:
    """Exit status 1, and one line on standard error, which holds these parts."""
    assert result.exit_code == 1, result.output
    [line] = result.stderr.splitlines()
    assert all(part in line for part in parts), line


# Settings


def test_show(logged_in: RUN, coreapp: Coreapp) -> None:
    """Every setting is shown under its dotted name; with --json as an object."""
    shown = logged_in("settings", "show")
    assert re.search(r"^webhooks\.max_concurrent_requests +6\s*$", shown.stdout, re.M)
    assert re.search(r"^callback_persist +true\s*$", shown.stdout, re.M)
    flat = json.loads(logged_in("settings", "show", "--json").stdout)
    assert flat["media.auto_download"] == ["audio", "document", "voice", "video", "image", "sticker"]
    assert flat["webhooks.message.delivered"] is True
    assert len(flat) == 14
    assert coreapp.calls == [READ, READ]


@pytest.mark.parametrize("command", [["show"], ["show", "--json"], ["apply", "--read"], ["apply", "--read", "--json"]])
def test_a_password_in_the_url(logged_in: RUN, coreapp: Coreapp, command: list[str]) -> None:
    """A password that somebody has put into the webhook's URL is not shown."""
    coreapp.settings["webhooks"]["url"] = "https://user:hidden@example.com/webhook"
    result = logged_in("settings", *command)
    assert result.exit_code == 0
    assert "hidden" not in result.output
    assert "https://***@example.com/webhook" in result.stdout


APPLIED: list[tuple[list[str], dict[str, Any], bool]] = [
    (["--url", URL], {"webhooks": {"url": URL}}, False),
    (["--sent"], {"webhooks": {"message": {"sent": True}}}, False),
    (["--no-delivered", "--read"], {"webhooks": {"message": {"delivered": False, "read": True}}}, False),
    (["--no-sent"], {"webhooks": {"message": {"sent": False}}}, False),
    (["--no-callback-persist"], {"callback_persist": False}, True),
    (["--callback-persist"], {"callback_persist": True}, False),
    (["--max-concurrent-requests", "24"], {"webhooks": {"max_concurrent_requests": 24}}, True),
    (["--callback-backoff-delay-ms", "500"], {"callback_backoff_delay_ms": 500}, False),
    (["--max-callback-backoff-delay-ms", "60000"], {"max_callback_backoff_delay_ms": 60000}, False),
    (["--pass-through"], {"pass_through": True}, True),
    (["--auto-download", "image, voice"], {"media": {"auto_download": ["image", "voice"]}}, False),
    (["--auto-download", ""], {"media": {"auto_download": []}}, False),
]


@pytest.mark.parametrize(("arguments", "sent", "restart"), APPLIED, ids=lambda value: str(value))
def test_apply(logged_in: RUN, coreapp: Coreapp, arguments: list[str], sent: dict[str, Any], restart: bool) -> None:
    """Only what is named is sent; a restart is asked for when a setting has changed that needs one."""
    result = logged_in("settings", "apply", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert coreapp.calls == [READ, CHANGE, READ]
    assert coreapp.asked[1].json == sent
    assert coreapp.asked[1].headers["Content-Type"] == "application/json"
    assert ("Restart the Coreapp now" in result.stdout) is restart


def test_apply_marks_what_changed(logged_in: RUN, coreapp: Coreapp) -> None:
    """The table shows every setting before and after, and marks what has changed, not what was only sent again."""
    lines = logged_in("settings", "apply", "--url", URL, "--sent", "--delivered").stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("*")] == [
        ["*", "webhooks.message.sent", "false", "true"],
        ["*", "webhooks.url", "-", URL],
    ]
    assert any(line.split() == ["webhooks.message.delivered", "true", "true"] for line in lines)


def test_apply_json(logged_in: RUN, coreapp: Coreapp) -> None:
    """With --json the same is an object."""
    said = json.loads(logged_in("settings", "apply", "--pass-through", "--json").stdout)
    assert (said["sent"], said["changed"], said["restart"]) == ({"pass_through": True}, ["pass_through"], True)
    assert (said["before"]["pass_through"], said["after"]["pass_through"]) == (False, True)


@pytest.mark.parametrize("body", [b"null", b"{}", b'{"meta":{"version":"2.53"}}', b""])
def test_apply_success(logged_in: RUN, coreapp: Coreapp, body: bytes) -> None:
    """200 is success, whether `null`, an object or nothing comes with it."""
    coreapp.settings["pass_through"] = True
    coreapp.force(CHANGE, 200, body)
    assert logged_in("settings", "apply", "--pass-through").exit_code == 0


@pytest.mark.parametrize("as_json", [True, False])
def test_dry_run(logged_in: RUN, coreapp: Coreapp, as_json: bool) -> None:
    """--dry-run shows what would be sent and what would differ, and only reads."""
    result = logged_in("settings", "apply", "--url", URL, "--pass-through", "--dry-run", *(["--json"] * as_json))
    assert result.exit_code == 0
    assert {one.method for one in coreapp.asked} == {"GET"}
    if as_json:
        said = json.loads(result.stdout)
        assert said["sent"] == {"webhooks": {"url": URL}, "pass_through": True}
        assert said["changed"] == ["pass_through", "webhooks.url"]
    else:
        assert f'"webhooks":{{"url":"{URL}"}}' in result.stdout
        assert "Nothing is changed" in result.stdout
        assert "would need a restart" in result.stdout


def test_a_change_that_does_not_show(logged_in: RUN, coreapp: Coreapp) -> None:
    """A client that takes a change and then shows the old value is an error that names the setting."""
    coreapp.deaf = True
    failed(logged_in("settings", "apply", "--sent", "--delivered"), "does not show it: webhooks.message.sent;")


def test_a_client_that_shows_numbers_as_text(logged_in: RUN, coreapp: Coreapp) -> None:
    """Older clients show numbers as text and lists in their own order: that is no difference."""
    coreapp.deaf = True
    coreapp.settings |= {"callback_backoff_delay_ms": "500", "media": {"auto_download": ["voice", "image"]}}
    arguments = ("--callback-backoff-delay-ms", "500", "--auto-download", "image,voice")
    assert logged_in("settings", "apply", *arguments).exit_code == 0


def test_a_change_that_is_refused(logged_in: RUN, coreapp: Coreapp) -> None:
    """What the client says against a setting is shown, and nothing else happens."""
    coreapp.force(CHANGE, 400, {"errors": [{"code": 1009, "title": "Parameter value is not valid", "details": "url"}]})
    failed(logged_in("settings", "apply", "--url", URL), "1009 Parameter value is not valid: url")
    assert coreapp.calls == [READ, CHANGE]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/webhook", "--url must be an https URL: http://"),
        ("example.com/webhook", "--url is no URL"),
        ("https://user:hidden@example.com", "--url holds a user or password"),
        ("", "--url is no URL"),
    ],
)
def test_a_url_that_is_refused(logged_in: RUN, coreapp: Coreapp, url: str, says: str) -> None:
    """The client calls https only: another URL is refused before anything is asked."""
    failed(logged_in("settings", "apply", "--url", url), says)
    assert coreapp.asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dry-run"],
        ["--max-concurrent-requests", "7"],
        ["--callback-backoff-delay-ms", "0"],
        ["--callback-backoff-delay-ms", "3s"],
        ["--auto-download", "image,text"],
        ["--unknown"],
    ],
)
def test_wrong_usage(logged_in: RUN, coreapp: Coreapp, arguments: list[str]) -> None:
    """Nothing named, or a value that no client takes, is wrong usage."""
    assert logged_in("settings", "apply", *arguments).exit_code == 2
    assert coreapp.asked == []


# The CA of the webhook


@pytest.fixture
def pem(authority: trustme.CA, tmp_path: Path) -> Path:
    """Two certificates in one file, with words around them as `openssl s_client` writes them."""
    path = tmp_path / "webhook.pem"
    path.write_bytes(b"words\n" + authority.cert_pem.bytes() + trustme.CA().cert_pem.bytes())
    return path


def test_ca(logged_in: RUN, coreapp: Coreapp, pem: Path) -> None:
    """What is uploaded arrives as PEM text, is shown again, and can be removed."""
    result = logged_in("ca", "upload", str(pem))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("Uploaded OU=Testing CA") == 2
    assert result.stdout.splitlines()[-1].startswith("Restart the Coreapp now")
    upload = coreapp.asked[0]
    assert (upload.method, upload.path, upload.headers["Content-Type"]) == ("POST", CA, "text/plain")
    assert x509.load_pem_x509_certificates(upload.body) == x509.load_pem_x509_certificates(pem.read_bytes())
    assert b"words" not in upload.body

    shown = json.loads(logged_in("ca", "show", "--json").stdout)
    assert "".join(one["pem"] for one in shown).encode() == upload.body
    assert set(shown[0]) == {"subject", "issuer", "until", "sha256", "pem"}
    assert shown[0]["until"] in logged_in("ca", "show").stdout

    assert "Restart the Coreapp now" in logged_in("ca", "delete", "--yes").stdout
    assert coreapp.ca is None
    failed(logged_in("ca", "show"), "1006 Resource not found: no CA certificate")


def test_delete_asks(logged_in: RUN, coreapp: Coreapp) -> None:
    """Without --yes a removal asks; no, and no answer, leave everything as it was."""
    for answer in ("n\n", None):
        assert logged_in("ca", "delete", input=answer).exit_code == 1
        assert coreapp.asked == []
    assert logged_in("ca", "delete", input="y\n").exit_code == 0
    assert coreapp.calls == [f"DELETE {CA}"]


def test_a_private_key_stays(logged_in: RUN, coreapp: Coreapp, authority: trustme.CA, tmp_path: Path) -> None:
    """A file that holds a private key is refused, of whatever kind, before anything is sent."""
    made = authority.issue_cert("example.com")
    for kind in ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY"):
        key = f"-----BEGIN {kind}-----\nMAA=\n-----END {kind}-----\n".encode()
        (tmp_path / "both.pem").write_bytes(made.cert_chain_pems[0].bytes() + key)
        failed(logged_in("ca", "upload", str(tmp_path / "both.pem")), "both.pem holds a private key")
    made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    failed(logged_in("ca", "upload", str(tmp_path / "both.pem")), "both.pem holds a private key")
    assert coreapp.asked == []


@pytest.mark.parametrize(
    "content",
    [b"", b"\x30\x82\x01", b"hello", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"],
)
def test_no_certificates(logged_in: RUN, coreapp: Coreapp, tmp_path: Path, content: bytes) -> None:
    """A file without certificates that can be read is refused, before anything is sent."""
    (tmp_path / "some.pem").write_bytes(content)
    failed(logged_in("ca", "upload", str(tmp_path / "some.pem")), "some.pem holds no certificates", "PEM")
    assert coreapp.asked == []


# Health


def test_health(logged_in: RUN, coreapp: Coreapp) -> None:
    """One node that is connected is healthy."""
    result = logged_in("health")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].split() == ["-", "connected", "-"]
    assert json.loads(logged_in("health", "--json").stdout) == [
        {"name": "", "gateway_status": "connected", "role": None}
    ]


def test_health_of_several_nodes(logged_in: RUN, coreapp: Coreapp) -> None:
    """With Multiconnect each node is a row; one that is not connected, or cannot be asked, makes it fail."""
    coreapp.health = {
        "one:ab12": {"gateway_status": "connected", "role": "primary_master"},
        "two:cd34": {"gateway_status": "connecting", "role": "coreapp"},
        "three:ef": {"errors": [{"code": 1014, "title": "Internal error", "details": "no answer"}]},
    }
    result = logged_in("health")
    failed(result, "not connected: two:cd34 connecting, three:ef 1014 Internal error: no answer")
    assert result.stdout.splitlines()[-3].split() == ["one:ab12", "connected", "primary_master"]
    assert [node["name"] for node in json.loads(logged_in("health", "--json").stdout)] == list(coreapp.health)
    coreapp.health = dict.fromkeys(("one:ab12", "two:cd34"), coreapp.health["one:ab12"])
    assert logged_in("health").exit_code == 0


@pytest.mark.parametrize("status", ["connecting", "disconnected", "uninitialized", "unregistered"])
def test_ill_health(logged_in: RUN, coreapp: Coreapp, status: str) -> None:
    """Every other status of the gateway fails, and is named."""
    coreapp.health = {"gateway_status": status}
    failed(logged_in("health"), f"not connected: {status};")


@pytest.mark.parametrize("health", [{}, {"a": 1}, {"gateway_status": None}, {"a": {}}])
def test_strange_health(logged_in: RUN, coreapp: Coreapp, health: dict[str, Any]) -> None:
    """Health that says nothing is no health."""
    coreapp.health = health
    failed(logged_in("health"))


# All of it


COMMANDS = [
    [],
    ["login"],
    ["settings"],
    ["settings", "show"],
    ["settings", "apply"],
    ["ca"],
    ["ca", "upload"],
    ["ca", "show"],
    ["ca", "delete"],
    ["health"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command))
def test_help(wa: Wa, command: list[str]) -> None:
    """Every command explains itself, without a Coreapp to be named."""
    result = wa("coreapp", *command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 5


def test_a_set_up(coreapp: Coreapp, ca_file: Path, pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first login to health, each command a process; none says a secret."""
    coreapp.first, old = True, coreapp.password

    def run(*arguments: str, **env: str) -> None:
        command = [sys.executable, "-m", "workers.cli", "coreapp", "--ca-file", str(ca_file), *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        for secret in (old, "new-secret-7", *coreapp.issued):
            assert secret not in done.stdout

    run("login", "--user", "admin", COREAPP_PASSWORD=old, COREAPP_NEW_PASSWORD="new-secret-7")
    run("settings", "apply", "--url", URL, "--sent", "--read", "--max-concurrent-requests", "12")
    run("ca", "upload", str(pem))
    coreapp.tokens.clear()
    run("health", COREAPP_PASSWORD="new-secret-7")
    assert coreapp.settings["webhooks"] == {
        "url": URL,
        "max_concurrent_requests": 12,
        "message": {"sent": True, "delivered": True, "read": True},
    }
    assert len(coreapp.issued) == 2
