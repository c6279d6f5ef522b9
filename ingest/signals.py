"""The signals by which a process that supervises others is told what to do."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STOPS = (signal.SIGTERM, signal.SIGINT)

RENEW = signal.SIGUSR1
"""Replace the children whose `ProcessSpec` is `renewed` by new ones; the old ones finish what they have begun."""


class Signals:
    """What this process was told: to stop, or to `renew` children; `wait` ends when it is, or when a child ends."""

    def __init__(self, reader: int) -> None:
        self.renew = False
        self.stops = 0
        """How often it was told to stop."""
        self._reader = reader

    def note(self, number: int, _: object) -> None:
        if number == RENEW:
            self.renew = True
        elif number in STOPS:
            self.stops += 1

    def wait(self, timeout: float | None) -> bool:
        """Wait for `timeout` seconds at most, and say whether this process is to stop."""
        if not self.stops:
            self.sleep(timeout)
        return self.stops > 0

    def sleep(self, timeout: float | None) -> None:
        """Wait for `timeout` seconds at most, or until a signal comes, or has come since the last wait."""
        select.select([self._reader], [], [], timeout)
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)


@contextmanager
def listen(renew: bool) -> Iterator[Signals]:
    """Listen to signals; to RENEW only where that means something."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    signals = Signals(reader)
    listened = (*STOPS, signal.SIGCHLD, *((RENEW,) if renew else ()))
    previous = {number: signal.signal(number, signals.note) for number in listened}
    previous_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
