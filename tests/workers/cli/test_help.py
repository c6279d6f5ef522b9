"""`--help` of every command is a page that one can work from."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from workers.cli import help
from workers.cli.main import main


def leaves(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        else:
            yield (*path, name)


def test_every_command_stands_in_a_section() -> None:
    """`wa-ingest --help` shows each command once, with its first sentence whole."""
    assert Counter(name for names in help.SECTIONS.values() for name in names) == Counter(main.commands.keys())
    shown = " ".join(CliRunner().invoke(main, ["--help"]).stdout.split())
    for command in main.commands.values():
        assert " ".join(command.get_short_help_str(200).split()) in shown
        assert not command.get_short_help_str(200).endswith("...")


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
            command = command.commands[name]
        with command.make_context("wa-ingest", words[len(path) + 1 :]):
            pass  # files that it opened are closed
