"""What `wa-ingest status` says about refused requests."""

from __future__ import annotations

import json

from click.testing import CliRunner
from redis import Redis

from ingest.state import refusals
from workers.cli.main import main


def test_status(redis: Redis) -> None:
    """The table says why requests were refused and what to do, the JSON how many; nothing without any."""
    run = CliRunner().invoke
    assert json.loads(run(main, ["status", "--json"]).stdout)["requests"] == {}
    assert "refused" not in run(main, ["status"]).stdout
    refusals.note(redis, {"signature": 5, "accepted": 10})
    assert json.loads(run(main, ["status", "--json"]).stdout)["requests"] == {"signature": 5, "accepted": 10}
    shown = " ".join(run(main, ["status"]).stdout.split())
    assert "5 requests refused lately with a wrong signature: Compare WA_APP_SECRET" in shown
