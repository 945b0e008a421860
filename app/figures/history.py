"""Whether more runs are needed: how sure the set of the most sensitive blocks is, run by run."""

from collections.abc import Sequence
from typing import TypedDict

import plotly.graph_objects as go

from .frame import empty_figure, frame
from .palette import TICK_SIZE, Palette, colours_for, fmt_percent, fmt_probability

_HEIGHT = 262
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 30, 46
_NOTHING_YET = "No history yet. From the third run on, this line shows how sure the set of the highest is."


class Check(TypedDict):
    """After so many runs, the bootstrap probability that the set of the highest blocks is this one."""

    runs: int
    probability: float


def stability_history(
    history: Sequence[Check],
    *,
    confidence: float,
    stable_after: int | None,
    runs: int,
    dark: bool,
) -> go.Figure:
    """Probability of the set of the most sensitive blocks against the runs it was judged from.

    Args:
        history: in the order of runs; empty before there are three.
        confidence: the probability that counts as stable, drawn as a line.
        stable_after: runs after which it was reached, None while it is not.
        runs: the most there will be; the axis ends there from the start.
    """
    if not history:
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    last = max(runs, *(check["runs"] for check in history))
    figure = frame(
        "stability-history",
        dark=dark,
        height=_HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(history, confidence, stable_after),
    )
    _threshold(figure, confidence, colours)
    if stable_after is not None:
        _moment(figure, stable_after, last, colours)
    figure.add_trace(_line(history, colours))
    figure.update_xaxes(
        title_text="Complete runs", range=[0, last + 0.5], showline=True, showgrid=False,
        tickmode="linear", tick0=0, dtick=_step(last), fixedrange=True,
    )  # fmt: skip
    figure.update_yaxes(
        title_text="Probability of the set", range=[0, 1.04], tickvals=[0, 0.25, 0.5, 0.75, 1],
        ticktext=["0 %", "25 %", "50 %", "75 %", "100 %"], ticklabelstandoff=4, fixedrange=True,
    )  # fmt: skip
    figure.update_layout(dragmode=False)
    return figure


def _line(history: Sequence[Check], colours: Palette) -> go.Scatter:
    return go.Scatter(
        x=[check["runs"] for check in history],
        y=[check["probability"] for check in history],
        mode="lines+markers",
        line={"width": 2, "color": colours.hand},
        marker={"size": 7, "color": colours.hand},
        customdata=[[fmt_probability(check["probability"])] for check in history],
        hovertemplate="<b>after %{x} runs</b>: %{customdata[0]}<extra></extra>",
        showlegend=False,
        cliponaxis=False,
    )


def _threshold(figure: go.Figure, confidence: float, colours: Palette) -> None:
    figure.add_hline(y=confidence, line={"width": 1.5, "dash": "dash", "color": colours.line}, layer="below")
    figure.add_annotation(
        text=f"stable from {fmt_percent(confidence, 0)}",
        x=0, xref="paper", xanchor="left", xshift=4, y=confidence, yanchor="top", yshift=-1,
        showarrow=False, font={"size": TICK_SIZE, "color": colours.muted},
    )  # fmt: skip


def _moment(figure: go.Figure, runs: int, last: int, colours: Palette) -> None:
    figure.add_vline(x=runs, line={"width": 2, "color": colours.accent}, layer="below")
    figure.add_annotation(
        text=f"stable after {runs} runs",
        x=runs, xanchor="left" if runs < last / 2 else "right", y=1, yref="paper", yanchor="bottom", yshift=2,
        showarrow=False, font={"size": TICK_SIZE, "color": colours.ink},
    )  # fmt: skip


def _step(last: int) -> int:
    """Runs from tick to tick: at most about ten ticks."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000, last) if last <= 10 * step)


def _describe(history: Sequence[Check], confidence: float, stable_after: int | None) -> str:
    now = history[-1]
    text = (
        f"Probability of the set of the most sensitive blocks: {fmt_probability(now['probability'])} "
        f"after {now['runs']} runs"
    )
    if stable_after is None:
        return f"{text}; {fmt_percent(confidence, 0)} counts as stable and is not reached."
    return f"{text}; stable after {stable_after} runs."
