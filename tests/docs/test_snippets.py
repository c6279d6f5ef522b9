"""What the pages tell readers to type: Python runs, and every command line is one that its program takes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from rq.cli import main as rq

from ingest.settings import Settings, variable
from tests.docs.snippets import (
    BLOCKS,
    COMMANDS,
    DESTINATIONS,
    NOT_COMMANDS,
    OVERRIDES,
    PAGES,
    PROGRAMS,
    PYTHON,
    ROOT,
    Block,
    Command,
    lay_out,
    shows_commands,
)
from workers.cli.main import main
from workers.destinations import file

FRAGMENTS = {
    '@handlers.message("text", rate="50/s", concurrency=4)\nasync def ask_the_model': "shows one decorator",
    '@handlers.message("text")\nasync def answer(message: Message) -> None:\n    response': "shows one handler",
}
"""How Python blocks begin that are part of a handlers module, and why they are not whole."""

ELSEWHERE = {
    "import sentry_sdk\n": "needs Sentry's package",
    "import os\nfrom collections.abc import Iterator\n\nimport django\n": "needs Django",
    "import os\nfrom collections.abc import Iterator\nfrom contextvars": "needs SQLAlchemy",
    "import hashlib\nimport hmac\nimport os\nimport sqlite3\n": "needs Flask",
    "from fastapi import": "needs FastAPI",
    "from flask import Flask, request\n": "needs Flask",
    "from celery import": "needs Celery",
    "import dramatiq\n": "needs dramatiq",
    "import os\n\nimport requests\n": "calls Hookdeck",
}
"""How Python blocks begin that tests/workers/test_frameworks.py and tests/recipes run or compile, and their needs."""

NOT_RUN = {
    "coverage": "shows what `make test` has measured",
    "flask": "tests/recipes/test_flask.py runs it",
    "grep": "a filter behind a command of ours",
    "node": "tests/recipes/test_express.py runs it",
    "npm": "installs from the internet",
    "pip": "installs from the internet",
    "psql": "tests/examples/test_postgres.py runs that file, tests/recipes/test_delivery_reports.py asks the questions",
}
"""Programs of others, and why no test runs their lines."""

COMPOSE = {name: yaml.safe_load((ROOT / name).read_text()) for name in ("docker-compose.yml", "docker-compose.ha.yml")}
COMPOSE_VARIABLES = {name for file in COMPOSE for name in re.findall(r"\bWA_[A-Z_]+", (ROOT / file).read_text())}
SETTINGS = {variable(name) for name in Settings.model_fields}


def test_the_pages_are_read() -> None:
    """Blocks and command lines are found at all, and the tables above name nothing that is gone."""
    assert {"README.md", "docs/handlers.md"} <= {block.page for block in PYTHON}
    assert {"make", "wa-ingest", "docker", "curl"} <= {one.words[0] for one in COMMANDS if one.words}
    for beginning in (*FRAGMENTS, *ELSEWHERE, *NOT_COMMANDS):
        assert any(beginning in (ROOT / page).read_text() for page in PAGES), beginning
    for program in NOT_RUN:
        assert any(one.words[:1] == (program,) for one in COMMANDS), program


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_of_a_known_kind(block: Block) -> None:
    """A block is Python, a file of destinations or of compose, command lines, a drawing (a fence without a language) or
    named above with a reason."""
    if block.language == "":
        assert not re.search(rf"^\s*(\$ )?({'|'.join(PROGRAMS)}) ", block.text, re.MULTILINE)
    else:
        files = PYTHON + DESTINATIONS + OVERRIDES
        assert block in files or shows_commands(block) or block.text.startswith(tuple(NOT_COMMANDS))


@pytest.mark.parametrize("block", [one for one in PYTHON if not one.text.startswith(tuple(ELSEWHERE))], ids=str)
def test_python(block: Block, tmp_path: Path) -> None:
    """A Python block can be imported, beside the files that its page has readers write; tests in it pass."""
    lay_out(tmp_path, block.page)
    text, module = block.text, tmp_path / "test_block.py"
    if text.startswith(tuple(FRAGMENTS)):
        text = f"from workers import *\nhandlers = Handlers()\n\n{text}"
    module.write_text(text)
    program = ["pytest", "-p", "no:cacheprovider"] if "def test_" in text else ["test_block"]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", *program, *([module.name] if program[0] == "pytest" else [])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("block", DESTINATIONS, ids=str)
def test_destinations(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of destinations is read without a word."""
    for name in re.findall(r"\$\{(\w+)\}", block.text):
        monkeypatch.setenv(name, "value")
    (tmp_path / "destinations.toml").write_text(block.text)
    assert file.read(tmp_path / "destinations.toml")


@pytest.mark.parametrize("block", OVERRIDES, ids=str)
def test_compose_overrides(block: Block) -> None:
    """A file of YAML is one that compose reads beside docker-compose.yml: it says more of services that are there."""
    services, known = yaml.safe_load(block.text)["services"], COMPOSE["docker-compose.yml"]["services"]
    assert services.keys() <= known.keys()
    assert {key for one in services.values() for key in one} <= {"image", "build", "environment", "extra_hosts"}


@pytest.mark.parametrize("shown", COMMANDS, ids=str)
def test_commands_are_taken(shown: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line names commands, options, targets, services, files and variables that exist, with values they take."""
    for name, _ in shown.variables:
        plain = name.removesuffix("_FILE")
        assert not name.startswith("WA_") or {name, plain} & (SETTINGS | COMPOSE_VARIABLES), name
    if shown.words:
        monkeypatch.chdir(tmp_path)
        program, *arguments = shown.words
        assert program in TAKES or program in NOT_RUN, f"no test knows {program}"
        TAKES.get(program, _anything)(arguments, shown.in_sentence or shown.is_form)


def _anything(arguments: list[str], loosely: bool) -> None:
    """A program of NOT_RUN."""


def _make(arguments: list[str], loosely: bool) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in arguments:
        name, equals, _ = word.partition("=")
        assert re.search(rf"^{name} *[:?]?= *" if equals else rf"^{name}:.*## ", makefile, re.MULTILINE), word


def _python(arguments: list[str], loosely: bool) -> None:
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1])
    else:
        assert (ROOT / arguments[0]).exists()


def _cp(arguments: list[str], loosely: bool) -> None:
    """From the folder of the source into one of the reader's, under the same name: without it, a `../mybot` that is not
    there yet would become the copy itself."""
    option, source, target = arguments
    assert (option, target) == ("-r", f"../mybot/{Path(source).name}")
    assert (ROOT / source).is_dir()


def _pytest(arguments: list[str], loosely: bool) -> None:
    assert all((ROOT / argument).exists() for argument in arguments)


def _curl(arguments: list[str], loosely: bool) -> None:
    """Carried out in test_lines_run.py."""


def _docker(arguments: list[str], loosely: bool) -> None:
    """`docker compose …`: its file, profiles and services are there, and what it runs in a container is taken."""
    if arguments[0] == "buildx":  # asks a registry
        return None
    if arguments[0] == "build":  # tests/compose builds it
        assert arguments[1:] == ["-t", "wa-ingest", "."]
        return None
    assert arguments[0] == "compose"
    file = arguments[arguments.index("-f") + 1] if "-f" in arguments else "docker-compose.yml"
    services = COMPOSE[file]["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    values = {
        "-f": lambda value: value in COMPOSE,
        "--profile": lambda value: value in profiles,
        "--scale": lambda value: value.partition("=")[0] in services,
    }
    plain, words = [], iter(arguments[1:])
    for word in words:
        if word in values:
            assert values[word](next(words)), arguments
        elif word == "exec":
            while (service := next(words)) == "-e":
                next(words)  # a variable of the reader's shell, for the command
            assert service in services, arguments
            inside, *rest = words
            if inside in ("cat", "rm", "sh"):
                return _in_container(services[service], rest)
            return TAKES[inside](rest, loosely)
        elif not word.startswith("-"):
            plain.append(word)
    assert plain[0] in ("up", "build", "stop", "down", "logs", "ps", "restart"), arguments
    assert set(plain[1:]) <= set(services), arguments
    return None


def _in_container(service: Any, arguments: list[str]) -> None:
    """The paths lie in volumes of the service, or are files that it mounts."""
    mounted = dict(reversed(volume.split(":")[:2]) for volume in service["volumes"])
    for path in (argument for argument in arguments if argument.startswith("/")):
        (target,) = (one for one in mounted if path.startswith(f"{one}/"))
        assert (
            not mounted[target].startswith(".") or (ROOT / mounted[target] / path.removeprefix(f"{target}/")).exists()
        )


def _wa_ingest(arguments: list[str], loosely: bool) -> None:
    (_known if loosely else _parsed)(main, arguments)


def _rq(arguments: list[str], loosely: bool) -> None:
    _known(rq, arguments)


def _known(group: click.Command, arguments: list[str]) -> None:
    """The command and its options exist. It may be a form, such as `dead list|show [--json]`."""
    last = [group]
    for word in re.sub(r"[\[\]]", "", " ".join(arguments)).split():
        if word.startswith("-"):
            options = [name for command in last for one in command.params for name in (*one.opts, *one.secondary_opts)]
            assert word in (*options, "--help"), word
        elif isinstance(last[0], click.Group):
            found = [last[0].get_command(click.Context(last[0]), name) for name in word.split("|")]
            last = [command for command in found if command is not None]
            assert len(last) == len(found), word


def _parsed(command: click.Command, arguments: list[str]) -> None:
    """Each option and argument is one that the command takes, with a value of its type."""
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), arguments.pop(0))
        assert found is not None
        command = found
    for word in arguments:
        if re.fullmatch(r"[\w-]+\.\w+", word):
            Path(word).touch()  # a file that the reader has
    with command.make_context("wa-ingest", arguments):
        pass  # files that it opened are closed


TAKES: dict[str, Callable[[list[str], bool], None]] = {
    "cp": _cp,
    "curl": _curl,
    "docker": _docker,
    "make": _make,
    "pytest": _pytest,
    "python": _python,
    "rq": _rq,
    "wa-ingest": _wa_ingest,
}
