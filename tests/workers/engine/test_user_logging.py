"""A worker in which the user's module configures logging."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

BOT = """
import logging, logging.config
from workers import Handlers
handlers = Handlers()
log = logging.getLogger("mine")

def configure():
    logging.config.dictConfig({
        "version": 1, "disable_existing_loggers": True,
        "formatters": {"f": {"format": "USER %(levelname)s %(name)s %(message)s"}},
        "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}},
        "loggers": {"mine": {"level": "DEBUG"}},
        "root": {"handlers": ["h"], "level": "INFO"},
    })

WHERE

@handlers.message()
def on_message(message):
    log.debug("seen")
    raise ValueError
"""


@pytest.fixture
def burst(
    run_module: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    commit: Callable[..., None],
    message: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], tuple[list[str], list[str]]]:
    """Run a worker with that module until one message is dead: the events of its own lines, and the lines of others."""

    def run(text: str) -> tuple[list[str], list[str]]:
        (tmp_path / "bot.py").write_text(text)
        monkeypatch.setenv("WA_HANDLERS", "bot:handlers")
        monkeypatch.setenv("WA_MAX_ATTEMPTS", "1")
        commit(message())
        with (tmp_path / "log").open("w") as log:
            assert run_module("workers.engine.worker", "--burst", cwd=tmp_path, stdout=log).wait(60) == 0
        lines = (tmp_path / "log").read_text().splitlines()
        return [json.loads(x)["event"] for x in lines if x[0] == "{"], [x for x in lines if x[0] != "{"]

    return run


@pytest.mark.parametrize("where", ["configure()", "handlers.startup(configure)"])
def test_ours_stay(where: str, burst: Callable[[str], tuple[list[str], list[str]]]) -> None:
    """The user's lines are as the user says, at import and at startup; the worker's own lines stay, in their form."""
    ours, others = burst(BOT.replace("WHERE", where))
    assert ours == ["worker started", "events failed", "dead letters", "worker stopped"]
    assert others == ["USER DEBUG mine seen"]


def test_level(burst: Callable[[str], tuple[list[str], list[str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """WA_LOG_LEVEL leaves out a worker's lines of lower levels, and those of a user who configures nothing."""
    monkeypatch.setenv("WA_LOG_LEVEL", "WARNING")
    assert burst(BOT.replace("WHERE", "log.info('imported')")) == (["events failed", "dead letters"], [])
