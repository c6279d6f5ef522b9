"""docs/recipes/slack.md, with a real receiver, the page's commands, and a server in place of Slack."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

from tests.ingest.admin.conftest import stay_alive
from tests.recipes.conftest import ROOT, blocks
from tests.workers.destinations.conftest import Application

FIGURES = re.compile(r"\d+m\d+s|\d+s|on [^*]+")


def _run(line: str) -> None:
    _, *words = line.split()
    subprocess.run([sys.executable, "-m", "workers.cli", *words], env=os.environ, check=True, capture_output=True)


def test_slack(application: Any, alerting_receiver: Any, redis: Any, wait_for: Any) -> None:
    """The page's two commands have the channel get what the page shows, but for figures and names."""
    app: Application = application()
    stay_alive(redis)
    alerting_receiver(app.url)
    pause, resume = re.findall(r"^    (wa-ingest (?:pause|resume) .*)$", _page(), re.MULTILINE)
    _run(pause)
    wait_for(lambda: app.posts, 60, "the first post")
    _run(resume)
    wait_for(lambda: len(app.posts) > 1, 60, "the second post")
    (shown,) = blocks("slack.md", "")
    posted = "\n\n".join(json.loads(post.body)["text"] for post in app.posts)
    assert FIGURES.sub("…", posted) == FIGURES.sub("…", shown.strip())


def _page() -> str:
    return (ROOT / "docs/recipes/slack.md").read_text()
