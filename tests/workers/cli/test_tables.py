"""Tables on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from workers.cli import tables

NAME = "shop.handlers.customers.answer_when_somebody_asks_for_a_price"


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (61, [NAME]),
        (40, ["shop.handlers.customers.", "answer_when_somebody_asks_for_a_price"]),
        (20, ["shop.handlers.", "customers.", "answer_when_", "somebody_asks_for_a_", "price"]),
        (
            7,
            [
                "shop.",
                "handler",
                "s.",
                "custome",
                "rs.",
                "answer_",
                "when_",
                "somebod",
                "y_",
                "asks_",
                "for_a_",
                "price",
            ],
        ),
    ],
)
def test_a_name_breaks_at_its_dots(width: int, lines: list[str]) -> None:
    """Behind a dot where that will do, else behind a `_`; a part that is longer than the line is folded."""
    out = io.StringIO()
    Console(file=out, width=width).print(tables.Name(NAME))
    assert out.getvalue().split() == lines
