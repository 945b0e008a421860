"""Where to write a short label beside each mark so that labels hide neither marks nor each other."""

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels, y downwards."""

_CHARACTER = 0.52  # mean width of a character of the interface font, in ems
_GAP = 3  # pixels between a mark and its label
_DISTANCES = (0, 8, 16, 26, 38, 52, 68)
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
_X_ANCHORS = {1: "left", 0: "center", -1: "right"}
_Y_ANCHORS = {1: "top", 0: "middle", -1: "bottom"}


@dataclass(frozen=True)
class Placement:
    """The label's anchor point, in pixels from its mark (y downwards), and which part of the label it is."""

    across: float
    down: float
    xanchor: str
    yanchor: str
    moved: bool  # far enough from the mark to need a line to it


def place_labels(
    marks: Sequence[tuple[float, float]],
    labels: Sequence[str],
    *,
    width: float,
    height: float,
    text_size: float,
    mark_size: float = 12,
    keep_clear: Sequence[Box] = (),
) -> list[Placement | None]:
    """A place for every label; None where the label is empty.

    Greedy: marks from left to right, and for each the first free place in eight directions, nearest first.
    Where every place is taken the one that hides least is used.

    Args:
        marks: positions in pixels inside a plot of `width` x `height`; all are kept visible.
        labels: one a mark, possibly empty.
        keep_clear: areas already in use, such as lines.
    """
    half = mark_size / 2
    taken = [*keep_clear, *((x - half, y - half, x + half, y + half) for x, y in marks)]
    placements: list[Placement | None] = [None] * len(marks)
    for index in sorted(range(len(marks)), key=lambda i: marks[i]):
        if not labels[index]:
            continue
        size = (_CHARACTER * text_size * len(labels[index]), text_size * 1.25)
        places = [_place(direction, distance, half) for distance in _DISTANCES for direction in _DIRECTIONS]
        boxes = [_box(marks[index], place, size) for place in places]
        best = min(range(len(places)), key=lambda i: (_hidden(boxes[i], taken, width, height), i))
        placements[index] = places[best]
        taken.append(boxes[best])
    return placements


def _place(direction: tuple[int, int], distance: float, half: float) -> Placement:
    across, down = direction
    reach = (distance + half + _GAP) * (0.7 if across and down else 1)
    return Placement(across * reach, down * reach, _X_ANCHORS[across], _Y_ANCHORS[down], moved=distance > 0)


def _box(mark: tuple[float, float], place: Placement, size: tuple[float, float]) -> Box:
    left = mark[0] + place.across - size[0] * {"left": 0, "center": 0.5, "right": 1}[place.xanchor]
    top = mark[1] + place.down - size[1] * {"top": 0, "middle": 0.5, "bottom": 1}[place.yanchor]
    return left, top, left + size[0], top + size[1]


def _hidden(box: Box, taken: Sequence[Box], width: float, height: float) -> float:
    """Area of `box` that is in use already, plus tenfold what lies outside the plot (square pixels)."""
    outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, (0, 0, width, height))
    return round(10 * outside + sum(_overlap(box, other) for other in taken), 3)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
