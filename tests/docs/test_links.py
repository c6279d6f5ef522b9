"""Links between the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("deploy/**/*.md")),
]


def anchors(page: Path) -> set[str]:
    """The names that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page names a file that is there, and a heading in it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_what_contributors_touch_is_there() -> None:
    """Each file and folder that CONTRIBUTING.md names exists."""
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|yml|toml))`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name.replace("ROOM", "")).exists()] == []


def test_every_alarm_has_a_section() -> None:
    """What an alarm names as its runbook is a heading of docs/operations.md."""
    found = re.findall(r"runbook: docs/operations\.md#(\S+)", (ROOT / "deploy/prometheus/rules.yml").read_text())
    assert len(found) > 10
    assert set(found) <= anchors(ROOT / "docs/operations.md")


def test_every_room_is_on_the_map() -> None:
    """docs/architecture.md has a heading for each room, below it each module and Lua script, and nothing else."""
    section = (ROOT / "docs/architecture.md").read_text().partition("\n## Rooms\n")[2].partition("\n## ")[0]
    named = {}
    for heading, text in re.findall(r"^### `([\w/]+)/`\n(.*?)(?=^### |\Z)", section, re.MULTILINE | re.DOTALL):
        listed = re.findall(r"^\* ((?:`[\w.]+`, )*`[\w.]+`): ", text, re.MULTILINE)
        named[heading] = sorted(name.strip("`") for names in listed for name in names.split(", "))
    there: dict[str, list[str]] = {}
    for path in [path for package in ("ingest", "workers") for path in (ROOT / package).rglob("*.*")]:
        if path.suffix in (".py", ".lua"):
            names = there.setdefault(str(path.parent.relative_to(ROOT)), [])
            names += [path.name.removesuffix(".py")] if path.name != "__init__.py" else []
    assert named == {room: sorted(names) for room, names in there.items()}
