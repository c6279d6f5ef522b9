"""The order of events with the same `order_key`: one begins when those before it have ended."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from workers.dispatch.gathering import Gathering

if TYPE_CHECKING:
    from workers.dispatch.ready import Item

_Key = tuple[str, str]


class Lines:
    """Of one process. Only in one list may several events of a key be in flight. `ready` is called with each event
    that may begin.
    """

    def __init__(self, ready: Callable[[Item], None]) -> None:
        self._ready = ready
        self._behind: dict[_Key, deque[Item] | None] = {}  # what waits for an event of its key
        self._gathered: dict[_Key, Gathering] = {}  # where the first one waits for company
        self._beside: Counter[_Key] = Counter()  # how many are in flight in a list beside the first

    def enter(self, item: Item) -> None:
        """The event may begin, unless it waits behind another one."""
        key = item.key
        if key is None or key not in self._behind:
            if key is not None:
                self._behind[key] = None
            self._ready(item)
            return
        behind = self._behind[key]
        if behind is None:
            behind = self._behind[key] = deque()
        behind.append(item)
        if self._gathered and (gathering := self._gathered.get(key)) is not None:
            gathering.behind += 1

    def leave(self, item: Item) -> None:
        """The event has ended: the next one of its key may begin."""
        key = item.key
        if key is None:
            return
        if self._beside and key in self._beside:
            self._beside[key] -= 1
            if not self._beside[key]:
                del self._beside[key]
        elif behind := self._behind[key]:
            following = behind.popleft()
            following.due_ms = time.time() * 1000
            self._ready(following)
        else:
            del self._behind[key]

    def gathered(self, item: Item, gathering: Gathering) -> None:
        """The event waits for company, and for nothing else: those behind it may come into its list."""
        if item.key is not None:
            self._gathered[item.key] = gathering
            gathering.behind += len(self._behind[item.key] or ())

    def called(self, item: Item) -> None:
        """It waits for company no longer."""
        if self._gathered and item.key is not None and (gathering := self._gathered.pop(item.key, None)) is not None:
            gathering.behind -= len(self._behind[item.key] or ())

    def behind(self, item: Item) -> Item | None:
        """The one that comes after an event, or after those of its key that have joined it."""
        behind = None if item.key is None else self._behind[item.key]
        return behind[0] if behind else None

    def pull(self, item: Item, fits: Callable[[Item], bool]) -> list[Item]:
        """Take those that fit out of what waits behind an event, which waits for no company."""
        if item.key is None or not (behind := self._behind[item.key]):
            return []
        pulled = [one for one in behind if fits(one)]
        self._behind[item.key] = deque(one for one in behind if not fits(one))
        return pulled

    def join(self, item: Item) -> None:
        """The event, the first of those behind, comes into the list of the one before it."""
        behind = None if item.key is None else self._behind[item.key]
        if behind and item.key is not None:
            behind.popleft()
            self._beside[item.key] += 1
