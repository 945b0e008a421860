"""Reading a JSON object that may be damaged."""

from __future__ import annotations

import math
from typing import Any

from qbert_core.errors import InputError


class Fields:
    """A JSON object that names itself and the field when something is not as it should be."""

    def __init__(self, document: Any, where: str) -> None:
        if not isinstance(document, dict):
            raise InputError(f"{where}: expected a JSON object, found {shown(document)}")
        self.document = document
        self.where = where

    def has(self, name: str) -> bool:
        return self.document.get(name) is not None

    def value(self, name: str) -> Any:
        if name not in self.document:
            raise InputError(f"{self.where}: {name} is missing")
        return self.document[name]

    def wrong(self, name: str, expected: str) -> InputError:
        return InputError(f"{self.where}: {name} is {shown(self.document[name])}; expected {expected}")

    def count(self, name: str, least: int = 0) -> int:
        value = self.value(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.wrong(name, f"a whole number of at least {least}")
        return value

    def number(self, name: str) -> float:
        value = self.value(name)
        if not is_number(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        value = self.value(name)
        if not isinstance(value, list) or len(value) != length or not all(map(is_number, value)):
            raise self.wrong(name, f"{length} finite numbers, one a run")
        return tuple(map(float, value))

    def text(self, name: str) -> str:
        value = self.value(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "a text")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.value(name)
        if value not in allowed:
            raise self.wrong(name, f"one of {', '.join(allowed)}")
        return str(value)

    def array(self, name: str) -> list[Any]:
        value = self.value(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value


def is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int no float can hold
        return False


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
