"""docs/recipes/slack.md, with a real receiver, the page's commands, and a server in place of Slack."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.ingest.admin.conftest import stay_alive
from tests.recipes.conftest import blocks, lines
from tests.workers.destinations.conftest import Application

FIGURES = re.compile(r"\d+m\d+s|\d+s|on [^*]+")


def test_slack(application: Any, alerting_receiver: Any, command: Any, redis: Any, wait_for: Any) -> None:
    """The page's two commands have the channel get what the page shows, but for figures and names."""
    app: Application = application()
    stay_alive(redis)
    alerting_receiver(app.url)
    (pause,), (resume,) = lines("slack.md", "wa-ingest pause"), lines("slack.md", "wa-ingest resume")
    command(pause)
    wait_for(lambda: app.posts, 60, "the first post")
    command(resume)
    wait_for(lambda: len(app.posts) > 1, 60, "the second post")
    (shown,) = blocks("slack.md", "")
    posted = "\n\n".join(json.loads(post.body)["text"] for post in app.posts)
    assert FIGURES.sub("…", posted) == FIGURES.sub("…", shown.strip())
