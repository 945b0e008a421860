"""The whole spectrum of a block's Hessian, not only its largest eigenvalue."""

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import plotly.graph_objects as go

from .blocks import known
from .frame import empty_figure, frame, nice_limit
from .palette import TICK_SIZE, Palette, colours_for, fmt_count, fmt_lambda, with_alpha

_HEIGHT = 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 18, 36, 46
_NOTHING_YET = (
    "No density yet. Choose a block and press Start: where its Hessian's eigenvalues lie appears here."
)


class Spectrum(TypedDict):
    """What `qbert_core density` writes, as far as it is drawn.

    `density` over `x` integrates to 1: every eigenvalue of the block (`parameters` of them) as a Gaussian
    of width `sigma` that holds 1 / parameters. `nodes` are each probe's estimates of eigenvalues, `lowest`
    and `highest` the outermost of them.
    """

    block: dict[str, Any]
    x: Sequence[float]
    density: Sequence[float | None]
    nodes: Sequence[Sequence[float]]
    sigma: float
    lowest: float
    highest: float


def density_curve(spectrum: Spectrum | None, *, dark: bool) -> go.Figure:
    """Spectral density (per unit of lambda) on a logarithmic axis; the ends of the spectrum are marked.

    Nearly all eigenvalues lie at zero and a few far out: each outlier holds one part in millions of the
    mass, which only a logarithm shows. A random probe may see next to nothing of one of them, so every
    probe's nodes are ticks at the bottom: an outlier has its place even where it has no height. The dotted
    line is the height of a single eigenvalue, the floor of the axis a tenth of it; the top is the height
    if all were equal. So the axis depends on the number of parameters and on the width alone, and in whole
    powers of ten. Lambda is linear: the width is then the same everywhere, and a distance means what it
    means in the figures of lambda.
    """
    if spectrum is None or not spectrum["x"]:
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    all_equal = 1 / (spectrum["sigma"] * math.sqrt(2 * math.pi))
    single = all_equal / spectrum["block"]["parameters"]
    floor, top = 10.0 ** math.floor(math.log10(single / 10)), 10.0 ** math.ceil(math.log10(all_equal))
    figure = frame(
        "density",
        dark=dark,
        height=_HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(spectrum),
    )
    for trace in _curve(spectrum, floor, colours):
        figure.add_trace(trace)
    figure.add_trace(_ticks(spectrum, floor * (top / floor) ** 0.025, colours))
    low, high = _range(spectrum)
    _single(figure, single, colours)
    _ends(figure, spectrum, high - low, colours)
    figure.update_xaxes(
        title_text="Eigenvalue λ", range=[low, high], nticks=9, showline=True, showgrid=False,
        zeroline=True, zerolinecolor=colours.grid, fixedrange=True,
    )  # fmt: skip
    powers = range(round(math.log10(floor)), round(math.log10(top)) + 1)
    figure.update_yaxes(
        title_text="Share per unit of λ", type="log", range=[powers[0], powers[-1]],
        tickmode="linear", tick0=0, dtick=math.ceil(len(powers) / 7), exponentformat="power",
        ticklabelstandoff=4, fixedrange=True,
    )  # fmt: skip
    figure.update_layout(dragmode=False)
    return figure


def _curve(spectrum: Spectrum, floor: float, colours: Palette) -> list[go.Scatter]:
    """The density with what is under it; values below the axis run along its floor."""
    xs = list(spectrum["x"])
    ys = [max(y, floor) if known(y) else floor for y in spectrum["density"]]
    ground = go.Scatter(
        x=[xs[0], xs[-1]],
        y=[floor, floor],
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )
    curve = go.Scatter(
        x=xs,
        y=ys,
        mode="lines",
        fill="tonexty",
        fillcolor=with_alpha(colours.hand, 0.18),
        line={"width": 2, "color": colours.hand},
        customdata=[[fmt_lambda(x), _power(y)] for x, y in zip(xs, spectrum["density"], strict=True)],
        hovertemplate="λ = %{customdata[0]}<br>density %{customdata[1]}<extra></extra>",
        name="density",
        showlegend=False,
    )
    return [ground, curve]


def _ticks(spectrum: Spectrum, height: float, colours: Palette) -> go.Scatter:
    nodes = [node for probe in spectrum["nodes"] for node in probe]
    return go.Scatter(
        x=nodes,
        y=[height] * len(nodes),
        mode="markers",
        marker={"symbol": "line-ns", "size": 11, "line": {"width": 1.5, "color": colours.ink}},
        customdata=[[fmt_lambda(node)] for node in nodes],
        hovertemplate="node at λ = %{customdata[0]}<extra></extra>",
        name="nodes",
        showlegend=False,
        cliponaxis=False,
    )


def _power(value: float | None) -> str:
    return f"{value:.1e}" if known(value) else ""


def _single(figure: go.Figure, height: float, colours: Palette) -> None:
    figure.add_hline(y=height, line={"width": 1, "dash": "dot", "color": colours.line}, layer="above")
    figure.add_annotation(
        text="one eigenvalue",
        x=1, xref="paper", xanchor="right", xshift=-4, y=math.log10(height), yanchor="bottom",
        showarrow=False, font={"size": TICK_SIZE, "color": colours.muted},
    )  # fmt: skip


def _ends(figure: go.Figure, spectrum: Spectrum, width: float, colours: Palette) -> None:
    """Lowest and highest eigenvalue: labels point inwards, one above the other where they would meet."""
    close = spectrum["highest"] - spectrum["lowest"] < 0.45 * width
    for name, value, anchor, up in (
        ("lowest", spectrum["lowest"], "left", 0),
        ("highest", spectrum["highest"], "right", 15 if close else 0),
    ):
        figure.add_vline(x=value, line={"width": 1.5, "dash": "dash", "color": colours.accent}, layer="below")
        figure.add_annotation(
            text=f"{name} {fmt_lambda(value)}",
            x=value, xanchor=anchor, y=1, yref="paper", yanchor="bottom", yshift=1 + up,
            showarrow=False, font={"size": TICK_SIZE, "color": colours.ink},
        )  # fmt: skip


def _range(spectrum: Spectrum) -> tuple[float, float]:
    """Both ends of the spectrum, three widths beyond them, and zero; coarse, so that it moves rarely."""
    reach = 3 * spectrum["sigma"]
    low, high = min(spectrum["lowest"] - reach, 0.0), max(spectrum["highest"] + reach, 0.0)
    left, right = nice_limit([low]) if low else 0.0, nice_limit([high]) if high else 0.0
    return -left, right


def _describe(spectrum: Spectrum) -> str:
    block = spectrum["block"]
    return (
        f"Density of the {fmt_count(block['parameters'])} Hessian eigenvalues of {block['name']}: from "
        f"{fmt_lambda(spectrum['lowest'])} to {fmt_lambda(spectrum['highest'])}."
    )
