"""docs/troubleshooting.md: every finding has a section there, and the commands it shows print what it says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ingest import troubleshooting
from ingest.state import health, refusals
from tests.docs.test_links import anchors
from workers.cli import checks, redis_checks
from workers.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
_TOPIC = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")


def named_in(module: object) -> Iterator[str]:
    """The topics that a module gives to its findings: its texts in the form of an anchor."""
    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _TOPIC.fullmatch(node.value):
            yield node.value


@pytest.mark.parametrize("module", [health, refusals, checks, redis_checks])
def test_every_topic_is_there(module: object) -> None:
    """What findings of the page and of `check` name is a heading of the page."""
    found = set(named_in(module))
    assert found
    assert found <= anchors(PAGE)
    assert found <= troubleshooting.sections().keys()


def test_every_finding_names_one() -> None:
    """Whatever the page says, but that all is well, has a topic; so has each check that may not be ok."""
    text = Path(health.__file__).read_text()
    about = set(re.findall(r'Finding\([^()]*?"(?:critical|warning|info)"[^()]*?, f?"([a-z]+)[."{]', text))
    assert len(about) > 10
    assert about - health.TOPICS.keys() == {"well"}
    source = "".join(Path(str(one.__file__)).read_text() for one in (checks, redis_checks))
    names = set(re.findall(r'Check\(\s*"([\w -]+)", "?(?:warning|failed|result)', source))
    assert len(names) > 12
    for name in names - {"requests"}:
        assert checks._topic(name)


def test_links_of_the_page() -> None:
    """What the live page itself names as a topic is there, too."""
    script = (ROOT / "ingest/admin/page/page.js").read_text()
    found = set(re.findall(r'topic: "([\w-]+)"', script))
    assert found
    assert found <= anchors(PAGE)


def test_help() -> None:
    """`help` lists the topics, shows a section by its name or a part of it, and says what it does not know."""
    listed = CliRunner().invoke(main, ["help"])
    assert (listed.exit_code, set(anchors(PAGE)) - {"troubleshooting"}) == (0, troubleshooting.sections().keys())
    for topic, text in troubleshooting.sections().items():
        assert topic in listed.stdout
        assert CliRunner().invoke(main, ["help", topic]).stdout == text
    part = CliRunner().invoke(main, ["help", "Redis"])
    assert part.stdout.count("=====") > 2
    assert "Redis is away\n====" in part.stdout
    wrong = CliRunner().invoke(main, ["help", "nonsense"])
    assert (wrong.exit_code, wrong.stderr) == (1, "Error: no topic has 'nonsense' in it: `wa-ingest help` lists them\n")
    inside = CliRunner().invoke(main, ["help", "Rejected"])
    assert inside.exit_code == 1
    assert inside.stderr.startswith("Error: no topic is called 'Rejected'; these tell of it: ")
    assert "there-are-dead-letters" in inside.stderr
