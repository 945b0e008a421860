"""A figure for a projector: the same drawing with larger type, and the room it needs."""

from typing import Any

import plotly.graph_objects as go

FACTOR = 1.35
_FONTS = ("font", "tickfont", "textfont")


def enlarged(figure: go.Figure, factor: float = FACTOR) -> go.Figure:
    """A new figure with every font, its margins and its height `factor` times as large."""
    made = go.Figure(_scaled(figure.to_dict(), factor), skip_invalid=False)
    margin = figure.layout.margin
    sides = {side: round(margin[side] * factor) for side in ("l", "r", "t", "b") if margin[side] is not None}
    made.update_layout(height=round(figure.layout.height * factor), margin=sides)
    return made


def _scaled(part: Any, factor: float, font: bool = False) -> Any:
    """A figure's plain data with the sizes inside fonts made larger; other sizes are those of markers."""
    if isinstance(part, dict):
        return {
            key: _times(value, factor) if font and key == "size" else _scaled(value, factor, key in _FONTS)
            for key, value in part.items()
        }
    if isinstance(part, list | tuple):
        return [_scaled(item, factor) for item in part]
    return part


def _times(size: Any, factor: float) -> Any:
    return [round(one * factor) for one in size] if isinstance(size, list | tuple) else round(size * factor)
