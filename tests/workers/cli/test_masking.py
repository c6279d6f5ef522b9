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
def test_processes_that_find_no_redis(
    form: str, run_module: Callable[..., Any], free_port: Callable[[], int], tmp_path: Path, wait_for: Any
) -> None:
    """Receiver and workers that `up` starts say that Redis is away, and never with which password they tried."""
    said = _up(run_module, free_port, tmp_path, wait_for, FORMS[form].replace("PASSWORD", "hunter2"), "Redis is away")
    assert not [word for word in WORDS if word in said]


def test_processes_whose_password_is_refused(
    redis: Redis, redis_url: str, run_module: Any, free_port: Callable[[], int], tmp_path: Path, wait_for: Any
) -> None:
    """A Redis that refuses the password is no reason to show it, either."""
    said = _up(
        run_module, free_port, tmp_path, wait_for, f"{redis_url}?username=someone&password=hunter2", "Redis refuses"
    )
    assert not [word for word in WORDS if word in said]


def _up(run_module: Any, free_port: Any, folder: Path, wait_for: Any, url: str, until: str) -> str:
    """What `wa-ingest up` and its processes wrote until both receiver and worker had said `until`."""
    log = folder / "log"
    own = {"WA_REDIS_URL": url, "WA_LISTEN": f"127.0.0.1:{free_port()}", "PYTHONPATH": str(ROOT)}
    own["WA_ADMIN_LISTEN"] = f"127.0.0.1:{free_port()}"
    with log.open("w") as out:
        process = run_module("workers.cli", "up", cwd=folder, env=os.environ | SECRETS | own, stdout=out)
    wait_for(lambda: "Ctrl-C stops" in log.read_text(), what="the start")
    wait_for(lambda: sum(until in line for line in log.read_text().splitlines()) >= 2, what=until)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0, log.read_text()
    return log.read_text()
