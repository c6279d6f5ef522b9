"""`--help` of every command is a page that one can work from."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from workers.cli import help
from workers.cli.main import main

ROOT = Path(__file__).parents[3]


def commands(group: click.Group) -> dict[str, click.Command]:
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def leaves(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in commands(group).items():
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        else:
            yield (*path, name)


def test_every_command_stands_in_a_section() -> None:
    """`wa-ingest --help` shows each command once, with its first sentence whole."""
    listed = [(name, sentence) for section in help.SECTIONS.values() for name, (_, sentence) in section.items()]
    assert Counter(name for name, _ in listed) == Counter(commands(main).keys())
    assert dict(listed) == {name: command.get_short_help_str(200) for name, command in commands(main).items()}
    shown = " ".join(CliRunner().invoke(main, ["--help"]).stdout.split())
    for _, sentence in listed:
        assert sentence in shown
        assert not sentence.endswith("...")


def pages(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, one in commands(command).items():
            yield from pages(one, *path, name)


@pytest.mark.parametrize("path", list(pages(main)), ids=" ".join)
def test_every_page_fits_a_terminal(path: tuple[str, ...]) -> None:
    """On a terminal of 80 columns no line is cut or folded: examples can be copied, and no name of a command is divided
    between two lines."""
    page = CliRunner().invoke(main, [*path, "--help"], terminal_width=80).stdout
    assert max(map(len, page.splitlines())) <= 80
    assert not re.search(r"^ .*(?:wa-|\.\.\.)$", page, re.MULTILINE)


def test_help_imports_no_command() -> None:
    """`wa-ingest --help` imports neither what the commands need nor their modules: it answers at once."""
    code = "import sys; from workers.cli.main import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint({"redis", "rq", "pydantic", "rich", "structlog", "workers.cli.run"})


@pytest.mark.parametrize("path", list(leaves(main)), ids=" ".join)
def test_every_page_has_examples_that_are_right(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says what the command does and ends with examples, and each is one that the command takes."""
    monkeypatch.chdir(tmp_path)
    page = CliRunner().invoke(main, [*path, "--help"], terminal_width=200).stdout
    examples = page.partition("Examples:")[2].strip().splitlines()
    assert [one.strip() for one in examples] == list(help.EXAMPLES[" ".join(path)])
    for example in examples:
        words = shlex.split(re.sub(r"^(?:WA_\w+=\S+ +)*", "", example.strip()))
        for word in words:
            if re.fullmatch(r"[\w-]+\.\w+", word):
                Path(word).touch()
        assert words[: len(path) + 1] == ["wa-ingest", *path]
        command: click.Command = main
        for name in path:
            assert isinstance(command, click.Group)
            command = commands(command)[name]
        with command.make_context("wa-ingest", words[len(path) + 1 :]):
            pass  # files that it opened are closed
