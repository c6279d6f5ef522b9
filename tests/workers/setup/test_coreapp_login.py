"""`wa-ingest coreapp login`, the token file, and how a token is renewed."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import Result

from tests.workers.setup.apis import SETTINGS, Coreapp, Wa
from workers.setup import api

RUN = Callable[..., Result]

LOGIN = "POST /v1/users/login"
READ = f"GET {SETTINGS}"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Where the token is kept when nothing else is said; HOME is the test's folder."""
    return tmp_path / ".config/wa-ingest/coreapp-token.json"


def failed(result: Result, *parts: str) -> str:
    """Its one line on standard error, which holds these parts; nothing on standard output; exit status 1."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    [line] = result.stderr.splitlines()
    assert all(part in line for part in parts), line
    return line


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_login(wa: Wa, coreapp: Coreapp, ca_file: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login keeps the token and not the password, for its owner alone, and says until when it holds."""
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    result = wa("coreapp", "--ca-file", str(ca_file), "login", "--user", "admin")
    assert (result.exit_code, result.stderr) == (0, "")
    until = str(coreapp.tokens[coreapp.issued[0]])
    assert f"as admin. The token in {token_file} is valid until {until}." in result.stdout
    kept = {"user": "admin", "token": coreapp.issued[0], "expires_after": until}
    assert json.loads(token_file.read_text()) == {coreapp.url: kept}
    assert (mode(token_file), mode(token_file.parent)) == (0o600, 0o700)
    assert os.listdir(token_file.parent) == [token_file.name]
    assert "new_password" not in coreapp.asked[0].body.decode()


def test_password_in_a_file(wa: Wa, coreapp: Coreapp, ca_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The password may lie in a file, without its line end; a slash at the end of the URL makes no difference."""
    (tmp_path / "password").write_text(coreapp.password + "\n")
    monkeypatch.setenv("COREAPP_PASSWORD_FILE", str(tmp_path / "password"))
    tokens = ("--token-file", str(tmp_path / "new/folder/tokens"))
    group = ("coreapp", "--ca-file", str(ca_file), "--api", coreapp.url + "/", *tokens)
    assert wa(*group, "login", "--user", "admin").exit_code == 0
    assert wa("coreapp", "--ca-file", str(ca_file), *tokens, "settings", "show").exit_code == 0
    assert (mode(tmp_path / "new/folder"), mode(tmp_path / "new/folder/tokens")) == (0o700, 0o600)


def test_logins_at_several_clients(logged_in: RUN, coreapp: Coreapp, token_file: Path, monkeypatch: Any) -> None:
    """A login leaves the tokens of other clients alone."""
    other = {"user": "x", "token": "y", "expires_after": "z"}
    token_file.write_bytes(orjson.dumps({"https://other": other} | json.loads(token_file.read_text())))
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    assert logged_in("login", "--user", "admin").exit_code == 0
    assert json.loads(token_file.read_text())["https://other"] == other
    assert json.loads(token_file.read_text())[coreapp.url]["token"] == coreapp.issued[1]


@pytest.mark.parametrize("where", ["option", "variable", "variable_file"])
def test_first_login(wa: Wa, coreapp: Coreapp, ca_file: Path, tmp_path: Path, monkeypatch: Any, where: str) -> None:
    """The first login of an admin sets a new password, which comes from a file or a variable."""
    new, old, coreapp.first = "new-secret-7", coreapp.password, True
    (tmp_path / "new").write_text(new)
    monkeypatch.setenv("COREAPP_PASSWORD", old)
    if where == "variable":
        monkeypatch.setenv("COREAPP_NEW_PASSWORD", new)
    if where == "variable_file":
        monkeypatch.setenv("COREAPP_NEW_PASSWORD_FILE", str(tmp_path / "new"))
    more = ["--new-password-file", str(tmp_path / "new")] if where == "option" else []
    result = wa("coreapp", "--ca-file", str(ca_file), "login", "--user", "admin", *more)
    assert (result.exit_code, coreapp.password) == (0, new), result.output
    assert "new password is set" in result.stdout
    assert old not in result.output


def test_first_login_without_a_new_password(wa: Wa, coreapp: Coreapp, ca_file: Path, monkeypatch: Any) -> None:
    """Without a new password a first login is refused, with the client's reason and what to do."""
    coreapp.first = True
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    result = wa("coreapp", "--ca-file", str(ca_file), "login", "--user", "admin")
    failed(result, "1008 Required parameter is missing: new_password (https://developers.example/errors)", "--first")


def test_a_password_that_is_no_text(wa: Wa, coreapp: Coreapp, tmp_path: Path, monkeypatch: Any) -> None:
    """Bytes that are not UTF-8 are one line that names the variable, which shows none of them."""
    (tmp_path / "password").write_bytes(b"hidden\xff")
    monkeypatch.setenv("COREAPP_PASSWORD_FILE", str(tmp_path / "password"))
    assert "hidden" not in failed(wa("coreapp", "login", "--user", "admin"), "COREAPP_PASSWORD_FILE", "not text")
    monkeypatch.setenv("COREAPP_PASSWORD", "hidden\udcff")
    assert "hidden" not in failed(wa("coreapp", "login", "--user", "admin"), "COREAPP_PASSWORD is not text")


@pytest.mark.parametrize("more", [[], ["--first"]])
def test_no_password_and_no_terminal(wa: Wa, coreapp: Coreapp, monkeypatch: Any, more: list[str]) -> None:
    """Without a terminal nothing is asked: a line says which variable is missing."""
    if more:
        monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    name = "COREAPP_NEW_PASSWORD" if more else "COREAPP_PASSWORD"
    failed(wa("coreapp", "login", "--user", "admin", *more), f"set {name} or {name}_FILE")


def test_typed_passwords(coreapp: Coreapp, ca_file: Path, run_module: Callable[..., Any]) -> None:
    """On a terminal old and new password are asked for, the new one twice, and none is shown."""
    coreapp.first = True
    old, new = coreapp.password, "typed-secret-9"
    leader, follower = pty.openpty()
    arguments = ["coreapp", "--ca-file", str(ca_file), "login", "--user", "admin", "--first"]
    terminal = {"stdin": follower, "stdout": follower, "stderr": follower, "start_new_session": True}
    process = run_module("workers.cli", *arguments, **terminal)
    os.close(follower)
    shown, waiting = "", [old, new, new]
    with open(leader, "r+b", buffering=0) as screen, suppress(OSError):  # Linux ends a closed terminal with an error
        while part := screen.read(4096):
            shown += part.decode()
            if waiting and re.search(r"(assword|confirmation): $", shown):
                screen.write(waiting.pop(0).encode() + b"\n")
    assert process.wait(30) == 0, shown
    assert coreapp.password == new
    assert "Logged in" in shown
    assert old not in shown
    assert new not in shown


def test_wrong_password(wa: Wa, coreapp: Coreapp, ca_file: Path, token_file: Path, monkeypatch: Any) -> None:
    """A refused login shows the client's reason, and what was kept before stays."""
    monkeypatch.setenv("COREAPP_PASSWORD", "wrong-secret")
    result = wa("coreapp", "--ca-file", str(ca_file), "login", "--user", "admin")
    line = failed(result, "1005 Access denied: Invalid credentials", "check --user, the password")
    assert "wrong-secret" not in line
    assert json.loads(token_file.read_text()) == {}


def test_a_reason_that_quotes_a_password(wa: Wa, coreapp: Coreapp, ca_file: Path, monkeypatch: Any) -> None:
    """A password that the client quotes in its reason is masked."""
    monkeypatch.setenv("COREAPP_PASSWORD", "quoted-secret")
    coreapp.force(LOGIN, 400, {"errors": [{"code": 1, "title": "No", "details": "got quoted-secret"}]})
    line = failed(wa("coreapp", "--ca-file", str(ca_file), "login", "--user", "admin"), "1 No: got ***")
    assert "quoted-secret" not in line


@pytest.mark.parametrize(
    "answer", [b"null", b'{"users":[]}', b'{"users":[{"token":"a b","expires_after":"x"}]}', b"[]"]
)
def test_a_strange_login_answer(wa: Wa, coreapp: Coreapp, ca_file: Path, monkeypatch: Any, answer: bytes) -> None:
    """An answer without a token that can be used is one line, if not at the login then at the next call."""
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    coreapp.force(LOGIN, 200, answer)
    result = wa("coreapp", "--ca-file", str(ca_file), "login", "--user", "admin")
    if b"token" in answer:
        result = wa("coreapp", "--ca-file", str(ca_file), "health")
    failed(result)


# The token file


def test_an_open_token_file(logged_in: RUN, coreapp: Coreapp, token_file: Path, monkeypatch: Any) -> None:
    """A token file that others can read is refused by every command, login too, before anything is sent."""
    token_file.chmod(0o640)
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    for command in (["settings", "show"], ["login", "--user", "admin"]):
        failed(logged_in(*command), f"open to others: chmod 600 {token_file}")
    assert coreapp.asked == []


WRONG_TYPE = b'{"https://a":{"user":"a","token":1,"expires_after":"x"}}'


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"https://a":1}', b'{"https://a":{"user":"a"}}', WRONG_TYPE])
def test_no_token_file(logged_in: RUN, token_file: Path, content: bytes) -> None:
    """A token file that holds something else is one line with the remedy."""
    token_file.write_bytes(content)
    failed(logged_in("health"), "is no token file: delete it")


def test_a_token_file_that_cannot_be_written(wa: Wa, coreapp: Coreapp, ca_file: Path, monkeypatch: Any) -> None:
    """It is noticed before the client is asked: a first login must not set a password and then fail."""
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    path = f"{ca_file}/tokens"
    result = wa("coreapp", "--ca-file", str(ca_file), "--token-file", path, "login", "--user", "admin")
    failed(result, path, "--token-file")
    assert coreapp.asked == []


def test_not_logged_in(wa: Wa, coreapp: Coreapp, ca_file: Path) -> None:
    """Before the first login every command says that one is needed."""
    failed(wa("coreapp", "--ca-file", str(ca_file), "health"), "not logged in", "run `wa-ingest coreapp login`")


# Renewal


def test_renewal(logged_in: RUN, coreapp: Coreapp, token_file: Path, monkeypatch: Any) -> None:
    """After a 401 the login is repeated with the password at hand, the call once, and the new token is kept."""
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    coreapp.tokens.clear()
    assert logged_in("settings", "show").exit_code == 0
    assert coreapp.calls == [READ, LOGIN, READ]
    assert json.loads(token_file.read_text())[coreapp.url]["token"] == coreapp.issued[1]
    assert logged_in("settings", "show").exit_code == 0
    assert coreapp.calls == [READ, LOGIN, READ, READ]


def test_renewal_after_the_end_of_a_life(logged_in: RUN, coreapp: Coreapp, monkeypatch: Any) -> None:
    """A token that has reached its end is renewed; one that never holds is tried twice, not for ever."""
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    coreapp.tokens.clear()
    coreapp.life = timedelta(seconds=-1)
    failed(logged_in("settings", "show"), "1005 Access denied: Invalid credentials")
    assert coreapp.calls == [READ, LOGIN, READ]


def test_no_renewal_without_a_password(logged_in: RUN, coreapp: Coreapp) -> None:
    """Without a password at hand one line says what to do."""
    coreapp.tokens.clear()
    failed(logged_in("settings", "show"), "token expired: run `wa-ingest coreapp login`")
    assert coreapp.calls == [READ]


def test_no_renewal_with_a_wrong_password(logged_in: RUN, coreapp: Coreapp, monkeypatch: Any) -> None:
    """A password that is refused is one line, with the reason."""
    monkeypatch.setenv("COREAPP_PASSWORD", "wrong-secret")
    coreapp.tokens.clear()
    failed(logged_in("settings", "show"), "token expired", "1005 Access denied")
    assert coreapp.calls == [READ, LOGIN]


# What a network does


def test_an_unknown_certificate(wa: Wa, coreapp: Coreapp, tmp_path: Path, monkeypatch: Any) -> None:
    """A certificate that nobody vouches for gets no password; the line names --ca-file. --insecure warns."""
    monkeypatch.setenv("COREAPP_PASSWORD", coreapp.password)
    failed(wa("coreapp", "login", "--user", "admin"), "certificate of", "not trusted", "--ca-file")
    assert coreapp.asked == []
    result = wa("coreapp", "--insecure", "login", "--user", "admin")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: --insecure")


def test_a_ca_file_without_certificates(wa: Wa, coreapp: Coreapp, tmp_path: Path) -> None:
    """A --ca-file that holds no certificate is one line."""
    (tmp_path / "empty").touch()
    failed(wa("coreapp", "--ca-file", str(tmp_path / "empty"), "health"), "--ca-file", "no PEM certificate")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "which Coreapp?"),
        ("http://127.0.0.1:1", "must be an https URL"),
        ("https://admin:hidden@127.0.0.1:1", "holds a user or password"),
        ("https://", "no URL"),
        ("https://a b", "no URL"),
        ("https://a:99999", "no URL"),
        ("https://[", "no URL"),
        ("https://a..b", "no URL"),
        ("coreapp:9090", "--api"),
    ],
)
def test_a_wrong_url(wa: Wa, monkeypatch: pytest.MonkeyPatch, url: str, says: str) -> None:
    """A URL that cannot be that of a Coreapp is one line, which shows no password."""
    monkeypatch.setenv("COREAPP_API", url)
    assert "hidden" not in failed(wa("coreapp", "health"), says)


def test_nobody_there(logged_in: RUN, coreapp: Coreapp, token_file: Path, free_port: Callable[[], int]) -> None:
    """A refused connection is one line."""
    url = f"https://127.0.0.1:{free_port()}"
    token_file.write_text(token_file.read_text().replace(coreapp.url, url))
    failed(logged_in("--api", url, "health"), url, "not reachable (Connection refused)", "--api")


@pytest.fixture
def silent() -> Any:
    """A port that takes connections, and whose answers are for the test to give."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_server_that_says_nothing(
    logged_in: RUN, coreapp: Coreapp, token_file: Path, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not answer in time is one line (the test does not wait the 30 seconds)."""
    assert api.SECONDS == 30
    monkeypatch.setattr(api, "SECONDS", 0.3)
    url = f"https://127.0.0.1:{silent.getsockname()[1]}"
    token_file.write_text(token_file.read_text().replace(coreapp.url, url))
    failed(logged_in("--api", url, "health"), "did not answer within 0.3 s", "--api")


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"<html>", "answered 200 with what is no JSON"),
        (502, b"<html>", "answered 502 with what is no JSON"),
        (500, b"", "answered 500 and gave no reason"),
        (500, b'{"errors":[]}', "answered 500 and gave no reason"),
        (500, b'{"errors":7}', "answered 500 and gave no reason"),
        (302, b"", "answered 302, which is not followed"),
        (200, b"[]", "unknown form"),
        (200, b"null", "unknown form"),
        (200, b'{"settings":[]}', "unknown form"),
        (400, b'{"errors":[{"code":7,"title":"a\\u001b[2Jb"}]}', r"7 a\x1b[2Jb"),
    ],
)
def test_strange_answers(logged_in: RUN, coreapp: Coreapp, status: int, body: bytes, says: str) -> None:
    """Whatever is answered, the line says what it was; a redirect is not followed."""
    coreapp.force(READ, status, body, Location="/elsewhere")
    failed(logged_in("settings", "show"), says)
    assert coreapp.calls == [READ]


def test_several_errors(logged_in: RUN, coreapp: Coreapp) -> None:
    """Each error of an answer is a line."""
    errors = [{"code": 1, "title": "One"}, {"code": 2, "title": "Two", "details": "why", "href": "/x"}]
    coreapp.force(READ, 500, {"errors": errors})
    result = logged_in("settings", "show")
    assert (result.exit_code, result.stderr) == (1, "Error: 1 One\nError: 2 Two: why (/x)\n")


@pytest.mark.parametrize("arguments", [[], ["--user", "a:b"], ["--user", "a\n"], ["--user", "\udcff"]])
def test_wrong_usage(wa: Wa, coreapp: Coreapp, arguments: list[str]) -> None:
    """A login without a user, or with one that Basic authentication cannot carry, is wrong usage."""
    assert wa("coreapp", "login", *arguments).exit_code == 2
