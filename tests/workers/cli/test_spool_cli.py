"""What the commands say about the disk spool."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from ingest import supervisor
from ingest.settings import load
from ingest.spool.spool import Spool
from workers.cli import run
from workers.cli.main import main


@pytest.fixture
def wa(redis: Redis) -> Callable[..., Result]:
    """Run a command of `wa-ingest` in this process, with an empty Redis."""
    return lambda *arguments: CliRunner().invoke(main, arguments)


def spool_check(wa: Callable[..., Result]) -> dict[str, str]:
    (found,) = [one for one in json.loads(wa("check", "--json").stdout) if one["name"] == "spool"]
    return found  # type: ignore[no-any-return]


def test_status(wa: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`status --json` has the figures, or null without a spool; the table a line when something is spooled."""
    assert json.loads(wa("status", "--json").stdout)["spool"] is None
    monkeypatch.setenv("WA_SPOOL_DIR", str(tmp_path / "spool"))
    empty = {"notifications": 0, "bytes": 0, "oldest_seconds": 0.0, "corrupt": 0}
    assert json.loads(wa("status", "--json").stdout)["spool"] == empty
    assert "spool" not in wa("status").stdout
    assert not (tmp_path / "spool").exists()
    Spool(tmp_path / "spool").append([(1_700_000_000_000, b"{}")] * 1234)
    (tmp_path / "spool" / "x.36.corrupt").touch()
    found = json.loads(wa("status", "--json").stdout)["spool"]
    assert (found["notifications"], found["corrupt"]) == (1234, 1)
    assert found["bytes"] > 1234
    assert found["oldest_seconds"] > 86400
    assert "disk spool: 1,234 notifications, oldest " in wa("status").stdout
    assert "damaged parts set aside: 1" in wa("status").stdout


def test_check(wa: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`check` warns of no spool, says how much room there is, also before the folder is made, and what is wrong."""
    assert spool_check(wa)["result"] == "warning"
    monkeypatch.setenv("WA_SPOOL_DIR", str(tmp_path / "deep" / "spool"))
    found = spool_check(wa)
    assert found["result"] == "ok"
    assert found["finding"].endswith(" free")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("WA_SPOOL_DIR", str(tmp_path / "file"))
    found = spool_check(wa)
    assert (found["result"], found["finding"]) == (
        "failed",
        f"{tmp_path / 'file'} cannot be written: Not a directory",
    )


def test_status_while_redis_is_away(wa: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Redis cannot be reached, `status` still says what the spool holds, and fails with one line."""
    monkeypatch.setenv("WA_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("WA_SPOOL_DIR", str(tmp_path / "spool"))
    Spool(tmp_path / "spool").append([(1_700_000_000_000, b"{}")] * 12)
    table, found = wa("status"), wa("status", "--json")
    assert table.stdout.startswith("disk spool: 12 notifications, oldest ")
    assert json.loads(found.stdout)["spool"]["notifications"] == 12
    assert (table.exit_code, len(table.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize(("given", "used"), [(None, "data/spool"), ("elsewhere", "elsewhere")])
def test_up(monkeypatch: pytest.MonkeyPatch, given: str | None, used: str) -> None:
    """`up` spools to ./data/spool unless told otherwise."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(supervisor, "become", lambda specs, env, *_: seen.update(env))
    with click.Context(run.up):
        run._up(load(spool_dir=given, redis_url="redis://h"), [], reload=False, personal=False)
    assert seen["WA_SPOOL_DIR"] == used
