"""`wa-ingest cloud`: where the Cloud API sends notifications."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.workers.setup.apis import Graph, Wa

ROOT = Path(__file__).parents[3]
WABA, PHONE, URL = "102290129340398", "106540352242922", "https://example.com/webhook"
OVERRIDE = {"override_callback_uri": URL, "verify_token": "a-verify-token"}


def failed(result: Result, *parts: str) -> None:
    """Exit status 1, nothing on standard output, and a last line on standard error, which holds these parts."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert all(part in line for part in parts), line


def test_subscribe(wa: Wa, graph: Graph) -> None:
    """Without a URL the app is subscribed and nothing is overridden; no verify token is needed."""
    result = wa("cloud", "subscribe", WABA)
    assert (result.exit_code, result.stderr) == (0, "")
    assert graph.calls == [f"POST /v24.0/{WABA}/subscribed_apps"]
    assert graph.asked[0].body == b""
    assert "the URL of the app" in result.stdout


def test_subscribe_with_a_url(wa: Wa, graph: Graph) -> None:
    """A URL is sent with the verify token, after a word that the receiver must have the same one."""
    result = wa("cloud", "subscribe", WABA, "--url", URL)
    assert result.exit_code == 0, result.output
    assert graph.asked[0].json == OVERRIDE
    assert "same WA_VERIFY_TOKEN" in result.stderr
    assert f"Notifications of {WABA} go to {URL}." in result.stdout


def test_override_of_a_phone_number(wa: Wa, graph: Graph) -> None:
    """A phone number's URL is a setting of its own."""
    assert wa("cloud", "subscribe", "--phone", PHONE, "--url", URL).exit_code == 0
    assert graph.calls == [f"POST /v24.0/{PHONE}"]
    assert graph.asked[0].json == {"webhook_configuration": OVERRIDE}


def test_secrets_in_files(wa: Wa, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tokens may lie in files."""
    for name, value in (("GRAPH_TOKEN", graph.token), ("WA_VERIFY_TOKEN", "a-verify-token")):
        (tmp_path / name).write_text(value + "\n")
        monkeypatch.delenv(name)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    assert wa("cloud", "subscribe", WABA, "--url", URL).exit_code == 0
    assert graph.asked[0].json == OVERRIDE


def test_show(wa: Wa, graph: Graph) -> None:
    """Each app is a row, with its override."""
    assert "No app" in wa("cloud", "show", WABA).stdout
    graph.override[WABA] = None
    assert wa("cloud", "show", WABA).stdout.splitlines()[-1].split() == ["Lucky", "Shrub", "6708", "-"]
    graph.override[WABA] = URL
    assert wa("cloud", "show", WABA).stdout.splitlines()[-1].split() == ["Lucky", "Shrub", "6708", URL]
    shown = json.loads(wa("cloud", "show", WABA, "--json").stdout)
    assert shown == [{"name": "Lucky Shrub", "id": "6708", "override_url": URL}]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/webhook", "must be an https URL"),
        ("https://user:pw@example.com/webhook", "holds a user or password"),
        ("https://example.com/" + "x" * 181, "--url has 201 characters, Meta takes 200 at most"),
    ],
)
def test_a_url_that_is_refused(wa: Wa, graph: Graph, url: str, says: str) -> None:
    """A URL that Meta does not take is refused before anything is sent; the longest that it takes is not."""
    failed(wa("cloud", "subscribe", WABA, "--url", url), says)
    assert graph.asked == []
    assert wa("cloud", "subscribe", WABA, "--url", "https://example.com/" + "x" * 180).exit_code == 0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WA_VERIFY_TOKEN", "", "WA_VERIFY_TOKEN is not set"),
        ("GRAPH_TOKEN", "", "no access token: set GRAPH_TOKEN or GRAPH_TOKEN_FILE"),
        ("GRAPH_TOKEN", "a\nb", "GRAPH_TOKEN holds white space"),
        ("GRAPH_TOKEN_FILE", "/nowhere", "GRAPH_TOKEN_FILE: cannot read /nowhere"),
        ("GRAPH_TOKEN_FILE", "/dev/null", "/dev/null is empty"),
        ("GRAPH_API", "http://example.com", "--graph must be an https URL"),
        ("WA_BATCH", "0", "WA_BATCH: "),
    ],
)
def test_wrong_variables(wa: Wa, graph: Graph, monkeypatch: Any, name: str, value: str, says: str) -> None:
    """What the environment lacks, or has wrong, is a line that names the variable."""
    if name == "GRAPH_TOKEN_FILE":
        monkeypatch.delenv("GRAPH_TOKEN")
    monkeypatch.setenv(name, value)
    failed(wa("cloud", "subscribe", WABA, "--url", URL), says)
    assert graph.asked == []


def test_an_error_of_the_api(wa: Wa, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the Graph API is one line with all that Meta's support asks for."""
    monkeypatch.setenv("GRAPH_TOKEN", "another")
    said = "Invalid OAuth access token (type OAuthException, code 190, error_subcode 33, fbtrace_id AZfF)"
    failed(wa("cloud", "show", WABA), said)


def test_an_error_that_quotes_a_token(wa: Wa, graph: Graph) -> None:
    """The API may quote the tokens it was given: they are masked."""
    message = f"Malformed access token {graph.token}, verify token a-verify-token"
    graph.force(f"POST /v24.0/{WABA}/subscribed_apps", 400, {"error": {"message": message, "code": 190}})
    result = wa("cloud", "subscribe", WABA, "--url", URL)
    failed(result, "Malformed access token ***, verify token *** (code 190)")


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b'{"success":false}', "unknown form"),
        (200, b"<html>", "is no JSON"),
        (200, b'{"error":{"message":"m"}}', "m ()"),
        (500, b"{}", "answered 500 and gave no reason"),
        (301, b"", "not followed"),
    ],
)
def test_strange_answers(wa: Wa, graph: Graph, status: int, body: bytes, says: str) -> None:
    """Whatever else is answered is no success."""
    graph.force(f"POST /v24.0/{WABA}/subscribed_apps", status, body)
    failed(wa("cloud", "subscribe", WABA), says)


@pytest.mark.parametrize("body", [b"{}", b'{"data":7}', b'{"data":[7]}', b'{"data":[{}]}', b'{"data":[[]]}'])
def test_a_strange_list(wa: Wa, graph: Graph, body: bytes) -> None:
    """A list of apps in another form is one line."""
    graph.force(f"GET /v24.0/{WABA}/subscribed_apps", 200, body)
    failed(wa("cloud", "show", WABA), "unknown form")


def test_nobody_there(wa: Wa, graph: Graph, free_port: Callable[[], int]) -> None:
    """A refused connection is one line."""
    failed(
        wa("cloud", "--graph", f"http://127.0.0.1:{free_port()}", "show", WABA),
        "not reachable (Connection refused)",
        "--graph",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["subscribe"],
        ["subscribe", WABA, "--phone", PHONE, "--url", URL],
        ["subscribe", "--phone", PHONE],
        ["subscribe", "../me"],
        ["subscribe", "--phone", "+49", "--url", URL],
        ["show"],
        ["show", "١٢"],
    ],
)
def test_wrong_usage(wa: Wa, graph: Graph, arguments: list[str]) -> None:
    """Neither or both of WABA and phone number, a phone number without a URL, an id that is none: wrong usage."""
    assert wa("cloud", *arguments).exit_code == 2
    assert graph.asked == []


@pytest.mark.parametrize("command", [[], ["subscribe"], ["show"]])
def test_help(wa: Wa, command: list[str]) -> None:
    """Every command explains itself."""
    result = wa("cloud", *command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 5


def test_as_a_process(graph: Graph) -> None:
    """The same as a process: what is said before the call is on standard error."""
    command = [sys.executable, "-m", "workers.cli", "cloud", "subscribe", WABA, "--url", URL]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    assert graph.override == {WABA: URL}
    assert graph.token not in done.stdout + done.stderr
    assert "a-verify-token" not in done.stdout + done.stderr
