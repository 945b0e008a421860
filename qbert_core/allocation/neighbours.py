"""The assignments one small step away from one, for a local search that keeps a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qbert_core.allocation.budget import Choice, Unit


@dataclass(frozen=True)
class Move:
    """Units that change their width: unit -> (bits before, bits after)."""

    changes: Mapping[str, tuple[int, int]]
    bytes: int  # by which the size changes
    harm: float  # by which the predicted harm changes

    def applied(self, bits: Mapping[str, int]) -> dict[str, int]:
        """`bits` after the move."""
        return {**bits, **{unit: after for unit, (_, after) in self.changes.items()}}


def moves(units: Sequence[Unit], bits: Mapping[str, int], room: int) -> list[Move]:
    """Moves from `bits` (unit -> a width it has a choice for) that add at most `room` bytes, the one predicted
    to do least harm first.

    A move begins with one unit a width up, or one up and another down, or one down. Widths are no even steps
    (from 4 to 8 bits costs four times what from 4 to 3 frees), so further units pay where it is too large: down
    by one, those first that do least harm a byte; and use what is left: up by one, those first whose harm falls
    most a byte. No unit goes further than one width, and at least one goes up.
    """
    steps = _Steps.of(units, bits)
    found: dict[frozenset[tuple[str, tuple[int, int]]], Move] = {}
    for begun in _beginnings(steps):
        move = _settled(begun, steps, room)
        if move is not None:
            found.setdefault(frozenset(move.changes.items()), move)
    return sorted(found.values(), key=lambda move: (move.harm, move.bytes, sorted(move.changes)))


@dataclass(frozen=True)
class _Steps:
    """Every unit's step to its next width, as far as there is one, in the order in which they are added: `up`
    by the harm a byte they save, `down` by what they cost."""

    up: tuple[Move, ...]
    down: tuple[Move, ...]

    @classmethod
    def of(cls, units: Sequence[Unit], bits: Mapping[str, int]) -> _Steps:
        up, down = [], []
        for unit in units:
            widths = sorted(unit.choices, key=lambda choice: choice.bits)
            place = [choice.bits for choice in widths].index(bits[unit.name])
            if place + 1 < len(widths):
                up.append(_step(unit.name, widths[place], widths[place + 1]))
            if place:
                down.append(_step(unit.name, widths[place], widths[place - 1]))
        return cls(tuple(sorted(up, key=_rate, reverse=True)), tuple(sorted(down, key=_rate)))


def _beginnings(steps: _Steps) -> Iterator[Move]:
    yield from steps.up
    for up in steps.up:
        yield from (_both(up, down) for down in steps.down if up.changes.keys() != down.changes.keys())
    yield from steps.down


def _settled(move: Move, steps: _Steps, room: int) -> Move | None:
    """`move` with what pays for it and what uses the rest; None where that cannot be, or nothing goes up."""
    for down in steps.down:
        if move.bytes > room and down.bytes < 0 and not down.changes.keys() & move.changes.keys():
            move = _both(move, down)
    for up in steps.up:
        fits = move.bytes + up.bytes <= room and up.harm < 0
        if fits and not up.changes.keys() & move.changes.keys():
            move = _both(move, up)
    rises = any(after > before for before, after in move.changes.values())
    return move if move.bytes <= room and rises else None


def _rate(step: Move) -> float:
    """Harm a byte: what a step down costs, what a step up saves."""
    return abs(step.harm) / max(abs(step.bytes), 1)


def _step(unit: str, before: Choice, after: Choice) -> Move:
    return Move({unit: (before.bits, after.bits)}, after.bytes - before.bytes, after.harm - before.harm)


def _both(one: Move, other: Move) -> Move:
    return Move({**one.changes, **other.changes}, one.bytes + other.bytes, one.harm + other.harm)
