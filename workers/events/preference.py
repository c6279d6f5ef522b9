"""What a contact wants to get from the business."""

from __future__ import annotations

from ingest import identity
from ingest.identity import Names
from workers.events.chat import ChatEvent
from workers.events.values import text


class Preference(ChatEvent):
    """A contact wants no more marketing messages, or wants them again: an element of `user_preferences`.

    Source: "user_preferences" in the Cloud webhook documentation.
    """

    __slots__ = ()
    kind = "preference"
    _array = "user_preferences"

    @property
    def value(self) -> str | None:
        """`stop`, `resume`, `signup`, …: an open set."""
        return text(self.raw, "value")

    @property
    def category(self) -> str | None:
        """What it is about: `marketing_messages`."""
        return text(self.raw, "category")

    @property
    def detail(self) -> str | None:
        """The same in English."""
        return text(self.raw, "detail")

    @property
    def signup_id(self) -> str | None:
        """The sign-up link that the contact used."""
        return text(self.raw, "signup_id")

    @property
    def subject(self) -> str | None:
        return self.value

    def _read_names(self) -> Names:
        return identity.of_contact(self.raw)
