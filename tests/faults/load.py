"""Notifications that come all the time while processes are killed."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Load(threading.Thread):
    """Commits the bodies of `each` more ids after every pause (seconds) until it is told to stop. `id` makes an id of a
    number, `body` a body of an id.
    """

    def __init__(
        self,
        commit: Callable[..., None],
        id: Callable[[int], str],
        body: Callable[[str], bytes],
        each: int,
        pause: float,
    ) -> None:
        super().__init__()
        self._commit = commit
        self._id = id
        self._body = body
        self._each = each
        self._pause = pause
        self.committed: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(self._pause):
            first = len(self.committed)
            ids = [self._id(n) for n in range(first, first + self._each)]
            self._commit(*map(self._body, ids), batch=50)
            self.committed += ids
