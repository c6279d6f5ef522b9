"""Several events of one notification, written as one notification again: what surrounds them is written once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from workers.events.event import Event

MOST_EVENTS = 500
"""Events that are written together at most."""


def together(events: Iterable[Event], most: int = MOST_EVENTS) -> Iterator[list[Event]]:
    """Runs of events, each of which one notification can hold: of one array, and all with a contact or all without.

    Their order stays as it is.
    """
    run: list[Event] = []
    place: object = None
    for event in events:
        here = _place(event)
        if run and (here is None or here != place or len(run) == most):
            yield run
            run = []
        run.append(event)
        place = here
    if run:
        yield run


def body_of(events: Sequence[Event]) -> bytes:
    """The body of such a run. Parsing it gives these events again, each with its contact."""
    first = events[0]
    place = _place(first)
    if len(events) == 1 or place is None:
        return first.body()
    elements = [event._element for event in events]
    contacts = [found for event in events if (found := event._contact()) is not None]
    if all(contact is contacts[0] for contact in contacts):
        contacts = contacts[:1]
    return first._envelope.around_all(place[1], [raw for _, raw in filter(None, elements)], contacts)


def headers_of(event: Event) -> bytes:
    """The headers that are kept with an event, or a run of them, of its notification."""
    return event._envelope.notification.headers_of_part


def _place(event: Event) -> tuple[int, str, bool] | None:
    """Events of the same place may be written together; one without a place is written alone."""
    element = event._element
    return None if element is None else (id(event._envelope), element[0], event._contact() is not None)
