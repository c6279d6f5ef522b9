"""A fault that belongs to no message."""

from __future__ import annotations

from workers.events.event import Event
from workers.events.values import error_details, number, text


class Error(Event):
    """A fault that belongs to no message: an element of `errors` beside, not inside, messages and statuses.

    Source: "errors" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ()
    kind = "error"
    _array = "errors"

    @property
    def code(self) -> int | None:
        """A number of Meta's error code list, such as 130429."""
        return number(self.raw, "code")

    @property
    def title(self) -> str | None:
        """The code's short name."""
        return text(self.raw, "title")

    @property
    def details(self) -> str | None:
        """What happened, in English (Cloud: `error_data.details`)."""
        return error_details(self.raw)

    @property
    def message(self) -> str | None:
        """Cloud only; mostly the same as `title`."""
        return text(self.raw, "message")

    @property
    def href(self) -> str | None:
        """Where the code is documented; may be relative."""
        return text(self.raw, "href")

    @property
    def subject(self) -> str | None:
        return text(self.raw, "code")
