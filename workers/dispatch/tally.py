"""How long handlers took and how often they failed, until the next settle counts it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from ingest.state import counters
from ingest.state.failures import MOST_CHARACTERS
from workers.dispatch.outcomes import Ended, in_logs

_MOST_ERRORS = 50  # different ones that are counted until a settle


class Tally:
    """Of one process. `answers` are those that destinations have counted, by name."""

    def __init__(self, answers: Mapping[str, Counter[str]] | None = None) -> None:
        self._answers = answers or {}
        self._took: defaultdict[str, list[float]] = defaultdict(list)  # seconds, by handler
        self._failures: Counter[str] = Counter()
        self._errors: Counter[tuple[str, str]] = Counter()  # of handlers
        self._sizes: defaultdict[str, list[float]] = defaultdict(list)  # of lists, by handler
        self._lately: defaultdict[str, float] = defaultdict(float)  # seconds, by lane
        self._spent: defaultdict[str, float] = defaultdict(float)

    def note(self, lane: str, call: Ended) -> None:
        """A handler was called for an event of this lane."""
        self._took[call.handler.name].append(call.seconds)
        self._lately[lane] += call.seconds
        self._spent[lane] += call.seconds
        if call.error is not None and call.broke:
            self._failures[call.handler.name] += 1
            error = call.handler.name, in_logs(call.error)[:MOST_CHARACTERS].replace("|", "/")
            if error in self._errors or len(self._errors) < _MOST_ERRORS:
                self._errors[error] += 1

    def note_list(self, handler: str, size: int) -> None:
        """A handler was called with a list of so many events."""
        self._sizes[handler].append(size)

    def lately(self) -> Mapping[str, float]:
        """Seconds of handlers since the last call, by lane."""
        lately, self._lately = self._lately, defaultdict(float)
        return lately

    def fields(self) -> dict[str, int]:
        """Handlers' times and failures, and destinations' answers, since the last call, as fields of
        `ingest.state.counters`.
        """
        fields = {f"{counters.HANDLER}|{name}|failed": count for name, count in self._failures.items()}
        fields |= {f"{counters.ERROR}|{name}|{error}": count for (name, error), count in self._errors.items()}
        for name, seconds in self._took.items():
            fields |= counters.observed(counters.HANDLER, name, seconds)
        for name, sizes in self._sizes.items():
            fields |= counters.observed(counters.LIST, name, sizes)
        for name, answers in self._answers.items():
            fields |= {f"{counters.DESTINATION}|{name}|{answer}": count for answer, count in answers.items()}
            answers.clear()
        self._took.clear()
        self._sizes.clear()
        self._failures.clear()
        self._errors.clear()
        return fields

    def spent(self) -> dict[str, int]:
        """Milliseconds of handlers since the last call, by lane."""
        spent = {lane: round(seconds * 1000) for lane, seconds in self._spent.items()}
        self._spent.clear()
        return spent
