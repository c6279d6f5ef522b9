"""The last minutes of a backlog in a few characters."""

from __future__ import annotations

from ingest.state.history import Point, Sample
from workers.cli.sparkline import SECONDS, Lines, sparkline


def test_from_nothing_to_the_largest() -> None:
    """Nothing is the lowest mark, the largest the highest, and what is not nothing never looks like it."""
    assert sparkline([0, 1, 500, 1000], "utf-8") == "▁▂▅█"
    assert sparkline([0, 0], "utf-8") == "▁▁"
    assert sparkline([], "utf-8") == ""
    assert sparkline([None, 3], "utf-8") == " █"


def test_plain_marks_where_blocks_cannot_be_shown() -> None:
    """A terminal without UTF-8, or one nobody knows, gets ASCII."""
    for encoding in ("ascii", "latin-1", "no-such-encoding"):
        assert sparkline([0, 1, 500, 1000], encoding) == "_.+#"


def test_what_was_before_it_began_comes_from_the_samples() -> None:
    """Samples of the past and what is seen now are one line; what is older than the line is forgotten."""
    lane = {"messages": Point(8, 1.0, 0.0, 0.0, 0)}
    lines = Lines([Sample(1000.0, 1, lane), Sample(1000.0 + SECONDS - 90, 1, lane)])
    drawn = lines.draw("messages", 4, 1000.0 + SECONDS, "utf-8")
    assert drawn == " " * 18 + "█▅"
    assert lines.draw("other", 0, 1000.0, "utf-8") == " " * 19 + "▁"
