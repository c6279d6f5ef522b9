"""A conversation that passes from one app to another."""

from __future__ import annotations

from ingest import identity
from ingest.identity import Names
from workers.events.chat import ChatEvent
from workers.events.values import JsonObject, table, text


class Handover(ChatEvent):
    """Another app, such as Meta's business agent, gave a conversation away or took it: the value of a change in field
    `messaging_handovers`. Source: "messaging_handovers" in the Cloud webhook documentation.
    """

    __slots__ = ()
    kind = "handover"
    _array = ""

    @property
    def type(self) -> str | None:
        """`control_passed`, `control_taken`, …: an open set."""
        return text(self.raw, "type")

    @property
    def previous_owner(self) -> str | None:
        """Who had the conversation: a role, such as `ai_agent`, else an app's id."""
        return self._owner("previous")

    @property
    def new_owner(self) -> str | None:
        """Who has it now: a role, such as `escalation`, else an app's id."""
        return self._owner("new")

    @property
    def metadata(self) -> str | None:
        """What the app that passed it on says."""
        return text(self.details or {}, "metadata")

    @property
    def details(self) -> JsonObject | None:
        """What stands under the type, as sent."""
        return table(self.raw, self.type or "")

    @property
    def subject(self) -> str | None:
        return self.type

    def body(self) -> bytes:
        return self._envelope.around_change(self._alone())

    def _alone(self) -> JsonObject:
        return self._envelope.change or {}

    def _owner(self, which: str) -> str | None:
        details = self.details or {}
        names = (f"{which}_owner_role", f"{which}_owner_app_role", f"{which}_owner_app_id")
        return next((found for name in names if (found := text(details, name))), None)

    def _read_names(self) -> Names:
        return identity.of_handover(self.raw)
