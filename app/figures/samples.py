"""The eigenvalues themselves: every run of every block, with its sign."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from .blocks import HEIGHT, BlockSensitivity, Sample, has_embedding, samples, sheet, title
from .frame import empty_figure, nice_limit, safe
from .layers import slots
from .palette import Palette, colours_for, fmt_lambda, fmt_percent, with_alpha

RESIDUAL_LIMIT = 0.05
"""|Hv - lambda v| / |lambda| above which an eigenvalue is drawn as doubtful."""

_BOX_FROM = 5  # samples; the quartiles of fewer say nothing
_CROWDED = 48  # blocks; more get smaller points
_SYMBOLS = {"ffn": "diamond", "embedding": "square"}
_GOLDEN = 0.6180339887498949
_NOTHING_YET = "No sensitivity yet. Press Start: the eigenvalues of every layer appear here, run by run."

Place = tuple[float, float]
"""Centre and width of a block on the layer axis."""


def lambda_samples(
    blocks: Sequence[BlockSensitivity], *, dark: bool, layers: int | None = None, embedding: bool = False
) -> go.Figure:
    """Top Hessian eigenvalue of each block in each run, signed: all points, and a box from five runs on.

    The scale is linear with a zero line. A symmetric logarithm would spread the small layers, but it would
    hide what the figure is for: Omega adds |mean| and standard deviation, and both are distances only on a
    linear axis; the fragile layers are meant to tower over the others.

    A run has the same place within every block, so that a draw of the data can be followed across layers.
    The thick bar is the mean, which Omega uses; the box's own line is the median. Eigenvalues with a residual
    above RESIDUAL_LIMIT are crosses. A point's `customdata` ends with its 0-based layer.

    Args:
        layers: how many the model has, so that a layer has its place before its block is there; by default
            as many as the blocks need.
        embedding: keep a slot for embedding tables before the first of them is there.
    """
    by_block = [samples(block) for block in blocks]
    values = [sample.value for found in by_block for sample in found]
    if not values:
        return empty_figure(_NOTHING_YET, dark=dark, height=HEIGHT)
    colours = colours_for(dark)
    places = slots([block["layer"] for block in blocks])
    figure = sheet(
        "lambda-samples",
        blocks,
        layers=layers,
        embedding=embedding or has_embedding(blocks),
        dark=dark,
        alt=_describe(by_block),
    )

    drawn = list(zip(blocks, by_block, places, strict=True))
    for block, found, place in drawn:
        if len(found) >= _BOX_FROM:
            figure.add_trace(_box(found, place, colours.kind(block["kind"])))
    kinds = list(dict.fromkeys(block["kind"] for block in blocks))
    for kind in kinds:
        of_kind = [
            (block, [s for s in found if not _doubtful(s)], place)
            for block, found, place in drawn
            if block["kind"] == kind
        ]
        marker = {
            "symbol": _SYMBOLS.get(kind, "circle"),
            "size": 4 if len(blocks) > _CROWDED else 6,
            "color": colours.kind(kind),
            "line": {"width": 0.6, "color": colours.background},
        }
        figure.add_trace(_points(of_kind, name=kind, marker=marker, showlegend=len(kinds) > 1))
    doubtful = [(block, [s for s in found if _doubtful(s)], place) for block, found, place in drawn]
    figure.add_trace(
        _points(
            doubtful,
            name=f"residual > {fmt_percent(RESIDUAL_LIMIT, 0)}",
            marker={"symbol": "x-thin", "size": 8, "line": {"width": 2, "color": colours.accent}},
            showlegend=any(found for _, found, _ in doubtful),
        )
    )
    figure.add_trace(_means(by_block, places, colours))
    figure.update_yaxes(title_text="λ, top eigenvalue", range=_range(values))
    figure.update_layout(clickmode="event+select", dragmode=False)
    return figure


def _range(values: Sequence[float]) -> list[float]:
    """Zero is always in sight; the ends move in coarse steps while runs arrive."""
    high, low = nice_limit(v for v in values if v > 0), nice_limit(v for v in values if v < 0)
    if min(values) >= 0:
        return [-0.06 * high, high]
    return [-low, high if max(values) > 0 else 0.06 * low]


def _doubtful(sample: Sample) -> bool:
    return sample.residual > RESIDUAL_LIMIT


def _box(found: Sequence[Sample], place: Place, colour: str) -> go.Box:
    centre, width = place
    return go.Box(
        x=[centre] * len(found),
        y=[sample.value for sample in found],
        width=width * 0.8,
        boxpoints=False,
        whiskerwidth=0.4,
        line={"width": 1.2, "color": with_alpha(colour, 0.75)},
        fillcolor=with_alpha(colour, 0.14),
        hoverinfo="skip",
        showlegend=False,
    )


def _points(drawn: Sequence[tuple[BlockSensitivity, Sequence[Sample], Place]], **style: Any) -> go.Scatter:
    marks = [(block, sample, place) for block, found, place in drawn for sample in found]
    return go.Scatter(
        x=[centre + _jitter(sample.run) * width * 0.7 for _, sample, (centre, width) in marks],
        y=[sample.value for _, sample, _ in marks],
        mode="markers",
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
        customdata=[
            [
                title(block),
                safe(block["name"]),
                sample.run + 1,
                fmt_lambda(sample.value),
                fmt_percent(sample.residual, 2),
                block["layer"],
            ]
            for block, sample, _ in marks
        ],
        hovertemplate="<b>%{customdata[0]}, run %{customdata[2]}</b><br>λ = %{customdata[3]}"
        "<br>residual %{customdata[4]}<br>%{customdata[1]}<extra></extra>",
        **style,
    )


def _means(by_block: Sequence[Sequence[Sample]], places: Sequence[Place], colours: Palette) -> go.Scatter:
    """A thick bar at the mean of each block that has several runs."""
    xs: list[float | None] = [None]
    ys: list[float | None] = [None]
    for found, (centre, width) in zip(by_block, places, strict=True):
        if len(found) > 1:
            mean = sum(sample.value for sample in found) / len(found)
            xs += [centre - width * 0.4, centre + width * 0.4, None]
            ys += [mean, mean, None]
    return go.Scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"width": 2.5, "color": colours.ink},
        hoverinfo="skip",
        name="mean",
    )


def _jitter(run: int) -> float:
    """A fixed place for a run between -0.5 and 0.5, far from those of the runs before it."""
    return (0.5 + run * _GOLDEN) % 1 - 0.5


def _describe(by_block: Sequence[Sequence[Sample]]) -> str:
    runs = max(len(found) for found in by_block)
    return f"Top Hessian eigenvalues of {len(by_block)} blocks in {runs} run{'s' if runs > 1 else ''}."
