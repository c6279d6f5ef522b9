"""Secrets are in no output: not of a command, not in a log, not in an error, in whatever form they were given."""

from __future__ import annotations

import os
import signal
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from redis import Redis

from workers.cli.main import main

ROOT = Path(__file__).parents[3]
SECRETS = {"WA_APP_SECRET": "app-secret-1,app-secret-2", "WA_VERIFY_TOKEN": "verify-token-3"}
WORDS = ["hunter2", "app-secret-1", "app-secret-2", "verify-token-3"]
COMMANDS = ["settings", "settings --json", "check", "check --json", "status", "status --json", "dead list"]
FORMS = {
    "user": "redis://someone:PASSWORD@127.0.0.1:1/0",
    "no user": "redis://:PASSWORD@127.0.0.1:1/0",
    "query": "redis://127.0.0.1:1/0?username=someone&password=PASSWORD",
    "tls": "rediss://someone:PASSWORD@127.0.0.1:1/0",
    "tls option": "rediss://127.0.0.1:1/0?password=PASSWORD&ssl_ca_cert=x",
    "wrong value": "redis://:PASSWORD@127.0.0.1:1/0?db=PASSWORD",
    "unix": "unix:///nowhere.sock?password=PASSWORD",
    "unix user": "unix://someone:PASSWORD@/nowhere.sock",
    "sentinel": "redis+sentinel://someone:PASSWORD@127.0.0.1:1,127.0.0.1:2/main/0",
    "no url": "redis//someone:PASSWORD@127.0.0.1:1",
    "no port": "redis://someone:PASSWORD@127.0.0.1:port/0",
}


def _said(command: str, **env: str) -> str:
    done = CliRunner().invoke(main, command.split(), env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output + done.stderr


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, form: str) -> None:
    """No command shows a password, an app secret or a token, also when it fails."""
    said = _said(command, WA_REDIS_URL=FORMS[form].replace("PASSWORD", "hunter2"), **SECRETS)
    assert said
    assert not [word for word in WORDS if word in said]


@pytest.mark.parametrize("command", COMMANDS)
def test_secrets_in_files(command: str, tmp_path: Path) -> None:
    """What was given as NAME_FILE, the URL too, is used and masked the same way."""
    given_ = SECRETS | {"WA_REDIS_URL": FORMS["user"].replace("PASSWORD", "hunter2")}
    for name, value in given_.items():
        (tmp_path / name).write_text(value + "\n")
    said = _said(command, **{f"{name}_FILE": str(tmp_path / name) for name in given_})
    assert "***" in said if command.startswith("settings") else "127.0.0.1:1" in said
    assert not [word for word in WORDS if word in said]


@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    password=st.text(string.ascii_letters + string.digits + string.punctuation + "äß €", min_size=8),
    form=st.sampled_from(sorted(FORMS)),
    command=st.sampled_from(COMMANDS),
)
def test_any_password(password: str, form: str, command: str) -> None:
    """No password appears, neither as it is nor as it stands in the URL."""
    password = f"7Zq{password}"  # in no text by chance
    written = quote(password, safe="")
    said = _said(command, WA_REDIS_URL=FORMS[form].replace("PASSWORD", written))
    assert password not in said
    assert written not in said


@pytest.mark.parametrize("form", ["user", "sentinel"])
def test_processes_that_find_no_redis(form: str, processes: Callable[..., str]) -> None:
    """Receiver and workers say that Redis is away and go on, `up` ends; none says which password it tried."""
    url = FORMS[form].replace("PASSWORD", "hunter2")
    said = processes(url, ("workers.cli", "serve"), ("workers.cli", "work"), until="Redis is away")
    refused = _said("up", WA_REDIS_URL=url)
    assert refused.startswith("Error: Redis is not reachable: ")
    assert not [word for word in WORDS if word in said + refused]


def test_processes_whose_password_is_refused(redis: Redis, redis_url: str, processes: Callable[..., str]) -> None:
    """A Redis that refuses the password is no reason to show it, either; commands end with one line."""
    url = f"{redis_url}?username=someone&password=hunter2"
    said = processes(url, ("ingest.server",), ("workers.engine.worker",), until="Redis refuses")
    refused = [_said(command, WA_REDIS_URL=url) for command in ("up", "serve", "work")]
    for line in refused:
        assert line.startswith("Error: Redis refuses the user or the password of WA_REDIS_URL; ")
        assert len(set(line.splitlines())) == 1
    assert not [word for word in WORDS if word in said + "".join(refused)]


@pytest.fixture
def processes(run_module: Any, free_port: Callable[[], int], tmp_path: Path, wait_for: Any) -> Callable[..., str]:
    """Run modules, and return what all of them wrote until each had said `until`."""

    def run(url: str, *commands: tuple[str, ...], until: str) -> str:
        own = {"WA_REDIS_URL": url, "WA_LISTEN": f"127.0.0.1:{free_port()}", "PYTHONPATH": str(ROOT)}
        own["WA_ADMIN_LISTEN"] = f"127.0.0.1:{free_port()}"
        logs = [tmp_path / command[-1] for command in commands]
        started = []
        for command, log in zip(commands, logs, strict=True):
            with log.open("w") as out:
                started.append(run_module(*command, cwd=tmp_path, env=os.environ | SECRETS | own, stdout=out))
        wait_for(lambda: all(until in log.read_text() for log in logs), what=until)
        for process in started:
            process.send_signal(signal.SIGTERM)
            process.wait(40)
        return "".join(log.read_text() for log in logs)

    return run
