"""Whom the `contacts` of a notification name, and which of them belongs to an element."""

from __future__ import annotations

from typing import Any

from ingest import identity
from ingest.identity import NOBODY, Names
from workers.events.values import JsonObject


class People:
    """The elements of `contacts`, found by what they are called: a notification of 1,000 elements may hold as many."""

    __slots__ = ("_by_name", "_contacts", "_lone", "_lone_names", "_places", "_value")

    def __init__(self, contacts: list[Any], value: JsonObject) -> None:
        self._contacts = contacts
        self._value = value
        objects = [one for one in contacts if isinstance(one, dict)]
        self._lone: JsonObject | None = objects[0] if len(objects) == 1 else None
        self._lone_names = NOBODY if self._lone is None else identity.of_contact(self._lone)
        self._by_name: dict[tuple[int, str], JsonObject] | None = None
        self._places: dict[str, dict[int, JsonObject]] = {}  # for each array, see `_by_place`

    def __bool__(self) -> bool:
        """False when nobody is named."""
        return bool(self._contacts)

    def called(self, *names: Names) -> JsonObject | None:
        """The contact with one of these numbers, else with one of these user ids, else with one of these parent ids.

        Numbers of Brazil, Mexico and Argentina are the same in all their forms.
        """
        if self._lone is not None:
            return self._lone if any(identity.same(one, self._lone_names) for one in names) else None
        if self._by_name is None:
            self._by_name = {}
            for contact in self._contacts:
                if isinstance(contact, dict):
                    for key in identity.keys_of(identity.of_contact(contact)):
                        self._by_name.setdefault(key, contact)  # the first of two equal ones
        for key in sorted(key for one in names for key in identity.keys_of(one)):
            if key in self._by_name:
                return self._by_name[key]
        return None

    def of(self, names: Names, raw: JsonObject, array: str) -> JsonObject | None:
        """The contact of an element of `array`: as it is called; else the one at its place, if there are as many
        contacts as elements and none contradicts the one beside it. Never one that the element contradicts.
        """
        if self._lone is not None:
            return None if identity.contradict(names, self._lone_names) else self._lone
        if found := self.called(names):
            return found
        if array not in self._places:
            self._places[array] = self._by_place(array)
        return self._places[array].get(id(raw))

    def _by_place(self, array: str) -> dict[int, JsonObject]:
        """The contact at the place of each element, by the id() of the element, if nowhere the two contradict."""
        elements: Any = self._value.get(array)
        if not identity.go_by_place(array, elements, self._contacts):
            return {}
        return {id(element): contact for element, contact in zip(elements, self._contacts, strict=True)}
