"""The empty sheet every figure starts from: transparent, fixed height, one type scale, no clutter."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from .palette import FONT_FAMILY, TEXT_SIZE, TICK_SIZE, Palette, colours_for

_NICE_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)


def frame(name: str, *, dark: bool, height: int, margin: tuple[int, int, int, int], alt: str) -> go.Figure:
    """A figure without data.

    Args:
        name: what the figure is; also its `uirevision`, so that a zoom survives new data.
        height: pixels; must not depend on the values drawn.
        margin: left, right, top, bottom in pixels, wide enough for every label the figure may show.
        alt: one sentence for screen readers, kept in `layout.meta` (see `alt_text`).
    """
    colours = colours_for(dark)
    left, right, top, bottom = margin
    figure = go.Figure()
    figure.update_layout(
        template=_template(colours),
        height=height,
        margin={"l": left, "r": right, "t": top, "b": bottom, "autoexpand": False},
        uirevision=name,
        meta={"alt": alt},
    )
    return figure


def empty_figure(message: str, *, dark: bool, height: int) -> go.Figure:
    """What stands in a figure's place before there is data: a sentence that says what to do next.

    `height` is that of the figure it stands for, so that nothing jumps when the data arrive.
    """
    figure = frame("empty", dark=dark, height=height, margin=(16, 16, 16, 16), alt=message)
    figure.update_xaxes(visible=False, fixedrange=True, range=[0, 1])
    figure.update_yaxes(visible=False, fixedrange=True, range=[0, 1])
    figure.add_annotation(
        text="<br>".join(textwrap.wrap(safe(message), 44)),
        x=0.5,
        y=0.5,
        showarrow=False,
        font={"size": TEXT_SIZE + 1, "color": colours_for(dark).muted},
    )
    return figure


def chart_config(filename: str) -> dict[str, Any]:
    """Plotly's `config`: no logo, a mode bar with the camera that saves an SVG called `filename`,
    and on a surface the house that turns it back."""
    return {
        "displaylogo": False,
        "showSendToCloud": False,
        "displayModeBar": "hover",
        "modeBarButtonsToRemove": [
            "zoom2d",
            "pan2d",
            "select2d",
            "lasso2d",
            "zoomIn2d",
            "zoomOut2d",
            "autoScale2d",
            "resetScale2d",
            "zoom3d",
            "pan3d",
            "orbitRotation",
            "tableRotation",
            "resetCameraLastSave3d",
            "hoverClosest3d",
        ],
        "toImageButtonOptions": {"format": "svg", "filename": filename},
        "scrollZoom": False,
        "responsive": True,
    }


def colour_scale(colours: Sequence[str]) -> list[list[Any]]:
    """Plotly's `colorscale` of colours in equal steps."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def colour_bar(title: str, colours: Palette, **settings: Any) -> dict[str, Any]:
    """Plotly's `colorbar`: as tall as the plot, its title along it; needs a right margin of about 100 pixels."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": TEXT_SIZE, "color": colours.muted}},
        "tickfont": {"size": TICK_SIZE, "color": colours.muted},
        "thickness": 12,
        "outlinewidth": 0,
        "x": 1,
        "xpad": 14,
        "y": 0.5,
        "len": 1,
        "ypad": 0,
        **settings,
    }


def alt_text(figure: go.Figure) -> str:
    """The figure in one sentence, for `st.plotly_chart(alt=...)`."""
    return str(figure.layout.meta["alt"])


def safe(text: str) -> str:
    """Text from outside, with the characters plotly reads as markup made harmless."""
    return escape(text, quote=False)


def nice_limit(values: Iterable[float]) -> float:
    """The end of an axis that holds `values`: the next of 1, 1.5, 2, 3, 5, 7, 10 times a power of ten.

    Coarse on purpose: while samples arrive the axis changes rarely. 1 when there is nothing to hold.
    """
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if largest < 1e-300:  # nothing, or too small for a power of ten
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(step * power for step in (*_NICE_STEPS, 15.0) if step * power >= largest * 1.04)


def nice_range(values: Iterable[float]) -> tuple[float, float, float]:
    """Ends of an axis that holds `values` but need not hold 0, and the step between its ticks.

    Both ends are multiples of the step, which is 1, 2 or 5 times a power of ten and at most a fifth of what
    the values span: the ends rarely move while values arrive.
    """
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    width = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)
    power = 10.0 ** math.floor(math.log10(width / 5))
    step = max(power * size for size in (1, 2, 5) if power * size <= width / 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        first, last = first - 1, last + 1
    return first * step, last * step, step


def _template(colours: Palette) -> go.layout.Template:
    axis = {
        "color": colours.muted,
        "tickfont": {"size": TICK_SIZE, "color": colours.muted},
        "title": {"font": {"size": TEXT_SIZE, "color": colours.muted}, "standoff": 8},
        "gridcolor": colours.grid,
        "gridwidth": 1,
        "linecolor": colours.line,
        "zeroline": False,
        "ticks": "",
        "automargin": False,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT_FAMILY, "size": TEXT_SIZE, "color": colours.ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": colours.surface,
                "bordercolor": colours.line,
                "font": {"family": FONT_FAMILY, "size": TEXT_SIZE, "color": colours.ink},
                "align": "left",
                "namelength": -1,
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1,
                "yanchor": "bottom",
                "bgcolor": "rgba(0,0,0,0)",
                "font": {"size": TICK_SIZE, "color": colours.muted},
                "itemclick": False,
                "itemdoubleclick": False,
                "itemsizing": "trace",
                "itemwidth": 30,
            },
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": colours.line,
                "activecolor": colours.ink,
            },
        }
    )
