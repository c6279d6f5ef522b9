"""The site of the pages: it builds, loads nothing from elsewhere, and leads to every page; llms.txt lists them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.snippets import ROOT

HERE = ROOT / "docs" / "site"
spec = importlib.util.spec_from_file_location("nav", HERE / "nav.py")
assert spec
assert spec.loader
nav = importlib.util.module_from_spec(spec)
spec.loader.exec_module(nav)

NO_PAGES = {".pytest_cache", ".venv", "benchmarks", "examples", "node_modules", "site", "tests", "workers"}
"""Folders whose Markdown is for those who read the code beside it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("Sphinx is not installed (the extra `docs`): the site is not built")
    folder = tmp_path_factory.mktemp("docs")
    command = re.findall(r"sphinx-build (.*?)-d \S+ \. site$", (ROOT / "Makefile").read_text(), re.M)[0].split()
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *command, "-d", folder / "doctrees", ".", folder / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


class Page(HTMLParser):
    """What a page links, and what a browser loads to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given["id"]} if "id" in given else set()
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        else:
            self.loads += [given[name] for name in ("src", "srcset", "href", "data", "poster") if name in given]
            self.loads += re.findall(r"url\(([^)]*)\)", given.get("style", ""))


def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    """No page, style sheet or script names another host that a browser would ask for anything."""
    for path, page in pages(site).items():
        assert [url for url in page.loads if urlsplit(url).netloc] == [], path
    for path in site.rglob("*.css"):
        text = path.read_text()
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text), path
    for path in site.rglob("*.js"):
        code = re.sub(r"/\*.*?\*/|(?m:(?:^|\s)//.*$)", "", path.read_text(), flags=re.DOTALL)
        named = set(re.findall(r"[\"'`](?:https?:)?//[\w.-]+", code))
        assert {url.strip("\"'`") for url in named} <= {"http://www.w3.org"}, path  # the name of SVG


def test_its_links_lead_somewhere(site: Path) -> None:
    """Each link inside the site leads to a file of it, and to an element there; each page is linked from the first."""
    found = pages(site)
    for path, page in found.items():
        for url in (*page.links, *page.loads):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name}: {url}"
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in found[target].ids, f"{path.name}: {url}"
    (front,) = (page for path, page in found.items() if path == site / "index.html")
    listed = {urlsplit(url).path.removesuffix(".html") for url in front.links}
    assert {page.removesuffix(".md") for page in nav.PAGES[1:]} <= listed


def test_what_is_hidden_at_first(site: Path) -> None:
    """The bodies in docs/events.md are folded up, each with its code and the table of its attributes inside."""
    text = (site / "docs" / "events.html").read_text()
    parts = re.findall(r"<details><summary>.*?</details>", text, re.DOTALL)
    assert len(parts) == (ROOT / "docs" / "events.md").read_text().count("<details>") > 50
    for part in parts:
        assert '<div class="highlight-json' in part
        assert "<table" in part
        assert "```" not in part


def test_search(site: Path) -> None:
    """The index of the search, which a browser reads from the site itself, knows the words of the pages."""
    assert re.search(r'"?snooz"?:', (site / "searchindex.js").read_text())
    assert "searchindex.js" in (site / "search.html").read_text()


def test_a_broken_link_fails(site: Path, tmp_path: Path) -> None:
    """A link to a heading that does not exist ends the build."""
    for name in ("docs/site", *nav.PAGES, "llms.txt", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "docs/site/nav.toml").write_text('[start]\n"README.md" = "x"\n')
    (tmp_path / "README.md").write_text("# x\n\n[here](#nowhere)\n")
    command = ["-m", "sphinx", "--quiet", "--fail-on-warning", "-c", "docs/site", ".", "site"]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nowhere" in done.stderr


def test_every_page_is_in_the_navigation() -> None:
    """Each Markdown file for readers is in docs/site/nav.toml once, and no other."""
    found = [path.relative_to(ROOT) for path in ROOT.rglob("*.md")]
    wanted = [str(path) for path in found if not NO_PAGES & set(path.parts)]
    assert sorted(nav.PAGES) == sorted(wanted)


def test_llms() -> None:
    """llms.txt is what the navigation makes; `python docs/site/nav.py` renews it."""
    assert (ROOT / "llms.txt").read_text() == nav.llms()
    for page in re.findall(r"\]\((.+?)\)", nav.llms()):
        assert (ROOT / page).is_file()
