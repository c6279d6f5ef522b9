"""Posts to WA_ALERT_URL, by real receivers to a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from redis import Redis

from ingest.admin.alerts import LINES, text_of
from ingest.settings import SettingsError, load
from ingest.state.alerts import News
from ingest.state.health import Finding
from ingest.store import keys
from tests.ingest.admin.conftest import stay_alive
from tests.workers.destinations.conftest import Application


def texts(app: Application) -> list[str]:
    """What was posted, without the line that names the machine."""
    return [line for post in app.posts for line in json.loads(post.body)["text"].splitlines()[1:]]


def test_once_over_all_receivers(application: Any, alerting_receiver: Any, redis: Redis, wait_for: Any) -> None:
    """Two receivers post once that something is wrong, with what helps, and once that it is over."""
    app = application()
    logs = [alerting_receiver(app.url) for _ in range(2)]
    wait_for(lambda: app.posts, 60, "a post")
    seen = redis.get(keys.ALERTS)
    wait_for(lambda: redis.get(keys.ALERTS) != seen, 60, "another look")
    stay_alive(redis)
    wait_for(lambda: len(app.posts) > 1, 60, "the second post")
    begun, ended = texts(app)
    assert begun == "🔴 No worker is alive. Start workers: `wa-ingest work`; their log says why they ended"
    assert ended.startswith("✅ Over after ")
    assert ended.endswith(": No worker is alive")
    assert json.loads(app.posts[0].body)["text"].startswith("*wa-ingest on ")
    assert app.posts[0].headers["content-type"] == "application/json"
    assert not any("alerts" in log.read_text() for log in logs)


def test_a_url_that_fails(application: Any, alerting_receiver: Any, redis: Redis, wait_for: Any) -> None:
    """Whatever is wrong with the URL is one line in the log, without the URL; what was not posted is tried again."""
    app = application()
    app.answer = lambda post: web.Response(status=302, headers={"Location": app.url})
    log = alerting_receiver(f"{app.host}/services/s3cret")
    wait_for(lambda: len(app.posts) > 1, 60, "another try")
    app.stop()
    seen = redis.get(keys.ALERTS)
    wait_for(lambda: redis.get(keys.ALERTS) != seen, 60, "a look meanwhile")
    app.answer = lambda post: web.Response()
    app.start()
    wait_for(lambda: "alerts are posted again" in log.read_text(), 60, "a post")
    lines = [json.loads(line) for line in log.read_text().splitlines() if "alerts" in line]
    assert [line["event"] for line in lines] == [
        "alerts cannot be posted, they are tried again",
        "alerts are posted again",
    ]
    assert lines[0]["reason"] == "answered 302"
    assert "s3cret" not in log.read_text()
    assert {post.path for post in app.posts} == {"/services/s3cret"}


def test_redis_is_away(
    application: Any, alerting_receiver: Any, own_valkey: Any, wait_for: Any, tmp_path: Path
) -> None:
    """While Redis is away one process of each receiver says so, and nothing of what it cannot see; then that it is
    over."""
    server = own_valkey(appendonly="yes")
    stay_alive(server.client())
    app = application()
    (tmp_path / "metrics").mkdir()
    logs = [alerting_receiver(app.url, server.url, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "metrics")) for _ in "12"]
    wait_for(lambda: all("receiver started" in log.read_text() for log in logs), 60, "both")
    wait_for(lambda: server.client().exists(keys.ALERTS), 60, "a look")
    server.stop()
    wait_for(lambda: app.posts, 60, "a post")
    server.start()
    wait_for(lambda: len(app.posts) > 1, 60, "the second post")
    begun, ended = texts(app)
    assert begun.startswith("🔴 Redis cannot be read")
    assert begun.endswith("Senders get 503 meanwhile and try again")
    assert ended.startswith("✅ Over after ")


def test_strange_data(application: Any, alerting_receiver: Any, redis: Redis, wait_for: Any) -> None:
    """What cannot be read is one line in the log; when it can be read again, alerts go on."""
    app = application()
    redis.set(keys.ALERTS, "since the flood")
    log = alerting_receiver(app.url)
    wait_for(lambda: "cannot be read" in log.read_text(), 60, "a line")
    redis.delete(keys.ALERTS)
    wait_for(lambda: app.posts, 60, "a post")
    assert log.read_text().count("cannot be read") == 1


def test_a_post_is_bounded() -> None:
    """However much is wrong, a post has so many lines, none is long, and nothing in them means anything to Slack."""
    handlers = [Finding("warning", f"broken.{n}", f"Handler {n} fails (<!channel> & {'x' * 1000})") for n in range(50)]
    first, *lines = text_of(News(handlers, {})).splitlines()
    assert first.startswith("*wa-ingest on ")
    assert lines[0].startswith("🟡 Handler 0 fails (&lt;!channel&gt; &amp; xxx")
    assert len(lines) == LINES + 1
    assert lines[-1] == "and 30 more"
    assert max(map(len, lines)) < 600


@pytest.mark.parametrize("url", ["hooks.slack.com/services/x", "ftp://example.com/", "https://", "https://a b"])
def test_a_wrong_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no URL is refused, with the name of the setting and an example."""
    monkeypatch.setenv("WA_ALERT_URL", url)
    with pytest.raises(SettingsError, match="WA_ALERT_URL: give a URL such as https"):
        load()
