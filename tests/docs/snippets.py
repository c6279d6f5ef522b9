"""What the pages tell readers to type: their code blocks, and the command lines in blocks and in sentences."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md"))]

PROGRAMS = ("wa-ingest", "make", "docker", "curl", "python", "rq", "pip", "pytest", "coverage")
"""What a command line in a sentence begins with, and what a drawing may not begin a line with."""

NOT_COMMANDS = {
    "FROM ": "a Dockerfile; tests/compose builds images",
    "import { createHmac": "JavaScript; tests/recipes/test_express.py runs it",
    "import { Queue, Worker }": "JavaScript; tests/recipes/test_migrate.py has Node read it",
    "import { createServer }": "JavaScript; tests/recipes/test_migrate.py runs it",
    "{{ $json": "an expression of n8n's",
    '{"event": ': "a line of a log",
    "wa-ingest: ": "an error",
    '{\n  "': "a notification; tests/docs/catalogue.py reads it",
}
"""How indented blocks, and code in sentences, begin that readers do not type, and what they are."""

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(\$\([^)]*\)|'[^']*'|\"[^\"]*\"|\S*)(?:\s+|$)")


@dataclass(frozen=True)
class Block:
    """A block of code: indented, or fenced with the name of its language."""

    page: str
    line: int
    language: str | None
    """None for an indented block: command lines. The empty string for a fence without a language: a drawing."""
    text: str
    file: str | None
    """The Python file that the sentence above the block names: where readers put it."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One program with its arguments, as a page shows it."""

    where: str
    text: str
    variables: tuple[tuple[str, str], ...]
    """What is assigned before it: names and values."""
    words: tuple[str, ...]
    """The program and its arguments; nothing when the line only assigns."""
    in_sentence: bool
    """Such a line may lack what the command needs: `wa-ingest replay --from`."""

    def __str__(self) -> str:
        return f"{self.where} {self.text}"

    @property
    def is_form(self) -> bool:
        """Does it stand for several, to be filled in: `wa-ingest limit LANE [--json]`?"""
        return bool(re.search(r"[\[|…]|\b[A-Z_]+\b", " ".join(self.words)))

    @property
    def page(self) -> str:
        return self.where.partition(":")[0]


def _tokens(page: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text())


def blocks() -> Iterator[Block]:
    """Every block of code on every page."""
    for page in PAGES:
        above = ""
        for token in _tokens(page):
            if token.type == "inline":
                above = token.content
            elif token.type in ("fence", "code_block"):
                language = token.info.strip() if token.type == "fence" else None
                named = re.search(r"`(\w+\.py)`", above)
                yield Block(page, (token.map or [0])[0] + 1, language, token.content, named[1] if named else None)


def shows_commands(block: Block) -> bool:
    return block.language in (None, "sh", "bash", "console") and not block.text.startswith(tuple(NOT_COMMANDS))


def commands() -> Iterator[Command]:
    """Every command line, each text once a page: those in blocks, then those in sentences and tables."""
    seen = set()
    for found in (*_in_blocks(), *_in_sentences()):
        if (found.page, found.text) not in seen:
            seen.add((found.page, found.text))
            yield found


def _in_blocks() -> Iterator[Command]:
    for block in filter(shows_commands, blocks()):
        for line in block.text.replace("\\\n", " ").splitlines():
            yield from _parse(str(block), line.removeprefix("$ "))


def _in_sentences() -> Iterator[Command]:
    for page in PAGES:
        for token in _tokens(page):
            for child in token.children or []:
                words = child.content.split() if child.type == "code_inline" else []
                program = next((word for word in words if not _ASSIGNMENT.match(word)), "")
                typed = len(words) > 1 and not child.content.startswith(tuple(NOT_COMMANDS))
                if typed and Path(program).name in PROGRAMS:
                    yield from _parse(f"{page}:{(token.map or [0])[0] + 1}", child.content, in_sentence=True)


def _parse(where: str, line: str, in_sentence: bool = False) -> Iterator[Command]:
    """The commands of a line, which may join several with && or a pipe."""
    text = line.strip().removeprefix("export ")
    variables = []
    while found := _ASSIGNMENT.match(text):
        variables.append((found[1], found[2]))
        text = text[found.end() :]
    words = shlex.split(text, comments=True)
    parts: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "|"):
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        if part or variables:
            shown = " ".join((*(f"{name}={value}" for name, value in variables), shlex.join(part))).strip()
            program = [Path(part[0]).name, *part[1:]] if part else []
            yield Command(where, shown, tuple(variables), tuple(program), in_sentence)
        variables = []


BLOCKS, COMMANDS = list(blocks()), list(commands())
PYTHON = [block for block in BLOCKS if block.language == "python"]
OVERRIDES = [block for block in BLOCKS if block.language == "yaml"]
DESTINATIONS = [block for block in BLOCKS if block.language == "toml"]

BODY = '{"messages": [{"from": "15550001", "id": "m1", "type": "text", "text": {"body": "Hello"}}]}'


def lay_out(folder: Path, page: str) -> Path:
    """Put the Python of a page into a folder, under the names that the page gives it, with a body to try it with, and
    what it has readers copy there.
    """
    (folder / "body.json").write_text(BODY)
    for block in PYTHON:
        if block.page == page and block.file:
            (folder / block.file).write_text(block.text)
    for command in COMMANDS:
        if command.where.startswith(f"{page}:") and command.words[:2] == ("cp", "-r"):
            source = ROOT / command.words[2]
            shutil.copytree(source, folder / source.name)
    return folder
