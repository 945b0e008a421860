"""Attention: where a head of the current plan looks, and where it looked in fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import streamlit as st
from plotly.graph_objects import Figure

from app import runs, selection, state
from app.drawer import drawer
from app.figures import (
    WINDOW,
    LayerKL,
    Shown,
    all_heads,
    attention_maps,
    fmt_count,
    fmt_kl,
    kl_by_layer,
    kl_heatmap,
    layer_label,
)
from app.going import go_to
from app.history import leads
from app.inspections import Example, Look
from app.items import item_of
from app.kept import last_kept, show_kept
from app.looking import look_at
from app.measured import measured, state_line, want
from app.plain import plain
from app.polling import draw_until, part
from app.registries import inspections, live
from app.views.answers import answers_html, inspected
from app.views.typed import typed_form
from app.waiting import loaded_workspace
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.evaluation import Evaluation
from qbert_core.quantization import Plan

POLL = 0.15  # seconds between looks at what is being computed
POLL_PRESETS = 1.0
FIRST_LOOK = 0.25  # how long the page waits for an answer before it is drawn without it
LISTED = 300  # sentences to choose from; flipped ones come first
BITS = (8, 4, 3, 2)
SHOWN: dict[Shown, str] = {"fp32": "fp32", "plan": "the plan", "difference": "the plan \N{MINUS SIGN} fp32"}
FROM_DATA, TYPED = "From the data", "Type your own"


@dataclass
class Chosen:
    """What this session looks at, on one workspace: 0-based layer and head, and a row of the data."""

    layer: int
    head: int
    row: int | None = None  # None until one is chosen or known to have flipped
    start: int = 0  # first token shown


def page() -> None:
    st.title("Attention")
    workspace = loaded_workspace()
    if workspace is None:
        return
    current = state.tuning(workspace)
    plan = current.plan
    want(workspace, plan)
    chosen = _chosen(workspace)
    marked = selection.chosen()
    if marked is not None and marked < workspace.checkpoint.config.layers:
        chosen.layer = marked
    left, right = st.columns([37, 63], gap="medium")
    with left:
        example = _choose(workspace, plan, chosen)
    more = {"layer": str(chosen.layer + 1), "head": str(chosen.head + 1)}
    if isinstance(example, int):
        more["row"] = str(example)
    state.write_link(current, **more)
    with right:
        _heatmap(workspace, plan, chosen)
    # a sentence's classes fit the left column; marked text needs the wider one
    answer = (left if workspace.task.head == "sequence" else right).container()
    look = None
    if example is not None:
        look = look_at(workspace, plan, example, (chosen.layer,))
        if look:
            with answer:
                _answers(workspace, example, look)
    _maps(workspace, plan, look, chosen)
    _heads(look, chosen)
    _methods(workspace)


def look_at_row(workspace: Workspace, row: int) -> NoReturn:
    """Go to this page, to a row of the data."""
    chosen = _chosen(workspace)
    chosen.row, chosen.start = row, 0
    st.session_state["attention-from"] = FROM_DATA
    go_to("attention")


def look_at_typed() -> NoReturn:
    """Go to this page, to the text typed last."""
    st.session_state["attention-from"] = TYPED
    go_to("attention")


def _chosen(workspace: Workspace) -> Chosen:
    """The session's choice for this workspace; the link's at first, and after Back and Forward."""
    kept: dict[str, Chosen] = st.session_state.setdefault("attention", {})
    linked = leads(kept)
    if linked or workspace.key not in kept:
        first = {name: _number(name) for name in ("layer", "head", "row")} if linked else {}
        config, rows = workspace.checkpoint.config, len(workspace.examples)
        layer, head, row = first.get("layer"), first.get("head"), first.get("row")
        kept[workspace.key] = Chosen(
            layer - 1 if layer and layer <= config.layers else 0,
            head - 1 if head and head <= config.heads else 0,
            row if row is not None and row < rows else None,
        )
    return kept[workspace.key]


def _number(name: str) -> int | None:
    text = st.query_params.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _choose(workspace: Workspace, plan: Plan, chosen: Chosen) -> Example | None:
    """The widgets of the left column; returns the example they say, None before one is typed."""
    words, config = WORDS[workspace.task.name], workspace.checkpoint.config

    def picked(key: str, name: str) -> None:
        setattr(chosen, name, st.session_state[key])
        if name == "layer":
            selection.choose(chosen.layer)

    layer, head = st.columns(2, gap="small")
    for column, label, name, options in (
        (layer, "Layer", "layer", range(config.layers)),
        (head, "Head", "head", range(config.heads)),
    ):
        key = f"attention-{name}"
        st.session_state[key] = getattr(chosen, name)  # a click on the heatmap changes it as well
        column.selectbox(
            label, options, key=key, on_change=picked, args=(key, name),
            format_func=layer_label if name == "layer" else lambda number: str(number + 1),
        )  # fmt: skip
    st.session_state.setdefault("attention-from", FROM_DATA)
    way = st.segmented_control(
        f"{words.one.capitalize()} looked at", [FROM_DATA, TYPED], required=True, key="attention-from",
        persist_state="session",
    )  # fmt: skip
    if way == TYPED:
        return typed_form(workspace, "attention")
    result = live().result(workspace, plan)
    flips = [flip.index for flip in result.flips] if result else []
    if chosen.row is None and (flips or (result and result.complete)):
        chosen.row = flips[0] if flips else 0
    row = chosen.row or 0
    _rows(workspace, flips, row, chosen)
    return row


def _rows(workspace: Workspace, flips: list[int], row: int, chosen: Chosen) -> None:
    """The list of sentences."""
    words, rows = WORDS[workspace.task.name], len(workspace.examples)
    listed = _first(LISTED, [*flips[: LISTED - 1], row, *range(min(rows, LISTED))])
    changed = set(flips)
    key = "attention-row"
    st.session_state[key] = row

    def pick() -> None:
        chosen.row, chosen.start = st.session_state[key], 0
        inspections().forget_errors()

    st.selectbox(
        words.one.capitalize(), listed, key=key, on_change=pick, label_visibility="collapsed",
        format_func=lambda i: f"{'changed: ' if i in changed else ''}{i + 1}. {_line(workspace, i)}",
        help=f"The {words.many} whose answer the plan changes come first",
    )  # fmt: skip
    flipped = f"{fmt_count(len(flips))} {words.many if len(flips) != 1 else words.one}"
    text = f"The plan changes the answer to {flipped}" + ("; listed first." if flips else ".")
    if rows > len(listed):
        text += f" Listed: {fmt_count(len(listed))} of {fmt_count(rows)}."
    st.caption(text)


def _line(workspace: Workspace, row: int) -> str:
    """A row in one line, made once a session: the list asks for hundreds whenever the page is drawn."""
    known = st.session_state.get("lines")
    if known is None or known[0] != workspace.key:
        known = st.session_state["lines"] = (workspace.key, {})
    lines: dict[int, str] = known[1]
    if row not in lines:
        lines[row] = item_of(workspace, row).line
    return lines[row]


def _first(most: int, numbers: list[int]) -> list[int]:
    """The first `most` different ones."""
    return list(dict.fromkeys(numbers))[:most]


def _heatmap(workspace: Workspace, plan: Plan, chosen: Chosen) -> None:
    """The same figure as on Bits, of the same numbers."""
    running = not live().settled(workspace, plan)
    if running:
        live().wait(workspace, plan, more_than=0, timeout=FIRST_LOOK)

    def clicked() -> None:
        points = st.session_state["attention-kl"]["selection"]["points"]
        cell = points[0].get("customdata") if points else None
        if cell:
            st.session_state["attention-clicked"] = (int(cell[0]), int(cell[1]))
        # a second click on a cell takes its selection away: it is meant all the same
        chosen.layer, chosen.head = st.session_state.get("attention-clicked", (chosen.layer, chosen.head))
        selection.choose(chosen.layer)
        st.session_state["attention-click"] = True

    def draw() -> None:
        now = measured(workspace, plan)
        state_line(workspace, now)
        st.markdown("## Attention KL from fp32, by layer and head: click a cell")
        kl = (now.result.attention_kl if now.result else None) or ()
        selected = (chosen.layer, chosen.head)
        dark = state.dark()
        shown = now.result and (now.result.plan.digest, now.result.complete, int(now.result.seconds))
        show_kept(
            "attention-kl",
            (workspace.key, shown, now.outdated, selected, dark),
            lambda: kl_heatmap(kl, dark=dark, outdated=now.outdated, selected=selected),
            on_select=clicked,
        )
        clicked_on = st.session_state.pop("attention-click", False)
        if running and runs.part_alone() and (clicked_on or live().settled(workspace, plan)):
            st.rerun()

    # a click is answered by one run of the page where it need not be that of a fragment first
    part(draw, POLL) if running else draw()


def _answers(workspace: Workspace, example: Example, look: Look) -> None:
    if look.inspection is None:
        st.error(plain(look.error or ""), icon=":material/error:")
        return
    head, labels = workspace.task.head, workspace.examples.labels
    item = item_of(workspace, example)
    st.html(answers_html(head, labels, item, inspected(look.inspection), dark=state.dark()))


def _maps(workspace: Workspace, plan: Plan, look: Look | None, chosen: Chosen) -> None:
    seen = look.inspection if look else None
    st.markdown(f"## {layer_label(chosen.layer)}, head {chosen.head + 1}: what each token looks at")
    dark, name = state.dark(), plan.name
    if seen is None:
        _no_maps("attention-maps", look, lambda: attention_maps([], [], [], plan=name, dark=dark), dark)
        return
    tokens = seen.tokens
    most = max(0, len(tokens) - WINDOW)
    chosen.start = min(chosen.start, most)
    st.caption(_words(workspace, seen.kl[chosen.layer][chosen.head], len(tokens), chosen, seen.windows))
    if most:
        key = "attention-start"
        st.session_state[key] = chosen.start + 1

        def moved() -> None:
            chosen.start = st.session_state[key] - 1

        st.slider("First token shown", 1, most + 1, key=key, on_change=moved)
    before, after = (maps[chosen.head] for maps in seen.attention[chosen.layer])
    content = (plan.digest, name, tokens, after.tobytes(), chosen.layer, chosen.head, chosen.start, dark)
    show_kept(
        "attention-maps",
        content,
        lambda: attention_maps(before, after, tokens, plan=name, dark=dark, start=chosen.start),
    )


def _no_maps(
    name: str,
    look: Look | None,
    empty: Callable[[], Figure],
    dark: bool,
    clicked: Callable[[], None] | None = None,
) -> None:
    """A figure without its maps: the last ones stand until the next are there, unless these cannot be had."""
    last = last_kept(name) if look is None else None
    st.caption("Outdated: computing the new maps …" if last else "\N{NO-BREAK SPACE}")
    show_kept(name, last[0] if last else dark, empty, clicked)


def _heads(look: Look | None, chosen: Chosen) -> None:
    """Every head of the layer at a glance; a click chooses one."""
    place = drawer("All heads of this layer", "all-heads", ":material/grid_view:")
    if not place.open:
        return
    seen, dark = look.inspection if look else None, state.dark()

    def clicked() -> None:
        points = st.session_state["heads"]["selection"]["points"]
        head = points[0].get("customdata") if points else None
        if head:
            chosen.head = int(head[0])

    with place:
        shown = st.segmented_control(
            "Shown", list(SHOWN), default="difference", required=True, format_func=SHOWN.get, key="heads-shown",
            persist_state="session", label_visibility="collapsed",
        )  # fmt: skip
        if seen is None:
            none = partial(all_heads, [], [], [], shown="fp32", selected=0, dark=dark)
            _no_maps("heads", look, none, dark, clicked)
            return
        st.caption(f"{layer_label(chosen.layer)}: each head, and its KL from fp32 on this text in nats.")
        before, after = seen.attention[chosen.layer]
        kl = [float(value) for value in seen.kl[chosen.layer]]
        content = (after.tobytes(), shown, chosen.layer, chosen.head, chosen.start, dark)
        show_kept(
            "heads",
            content,
            lambda: all_heads(
                before, after, kl, shown=shown, selected=chosen.head, dark=dark, start=chosen.start
            ),
            on_select=clicked,
        )


def _words(workspace: Workspace, kl: float, tokens: int, chosen: Chosen, windows: int) -> str:
    one = WORDS[workspace.task.name].one
    text = f"KL of this head on this {one}: {fmt_kl(float(kl), unit=True)}. {tokens} tokens"
    if windows > 1:
        text += f" in the part of the paragraph (one of {windows}) that fp32 answers from"
    if tokens > WINDOW:
        text += (
            f"; shown are {chosen.start + 1} to {chosen.start + WINDOW}, as queries and as keys. "
            f"A row of all {tokens} sums to 1"
        )
    return text + "."


def _methods(workspace: Workspace) -> None:
    """Q-BERT against DirectQ: presets, which are measured when no plan waits."""
    words, pick = st.columns([7, 4], vertical_alignment="bottom", gap="medium")
    words.markdown("## Q-BERT (128 groups) against DirectQ (1 range a matrix): attention KL by layer")
    bits = pick.segmented_control(
        "Bits", BITS, default=4, required=True, key="attention-bits", persist_state="session",
        format_func=lambda count: f"{count} bits", label_visibility="collapsed",
    )  # fmt: skip
    pair = [plan for plan in workspace.presets if plan.name in (f"qbert-{bits}", f"directq-{bits}")]
    pair.sort(key=lambda plan: plan.name, reverse=True)

    def settled() -> bool:
        return all(live().settled(workspace, plan) for plan in pair)

    def draw() -> None:
        results = [live().result(workspace, plan) for plan in pair]
        lines = [LayerKL(plan.name, _means(result)) for plan, result in zip(pair, results, strict=True)]
        dark, layers = state.dark(), workspace.checkpoint.config.layers
        show_kept(
            "methods-kl",
            (workspace.key, lines, dark),
            lambda: kl_by_layer(lines, layers=layers, dark=dark),
            layers=True,
        )
        errors = [error for plan in pair if (error := live().error(workspace, plan))]
        for error in errors:
            st.error(plain(error), icon=":material/error:")
        if not settled():
            st.caption("Measuring: presets have their turn when no plan of yours waits …")
        elif all(line.kl for line in lines):
            many = WORDS[workspace.task.name].many
            st.caption(
                f"Mean over the heads of a layer and over {fmt_count(len(workspace.examples))} {many}."
            )

    draw_until(settled, draw, POLL_PRESETS)


def _means(result: Evaluation | None) -> list[float]:
    """Mean KL of every layer's heads once all examples are measured."""
    if result is None or not result.complete:
        return []
    return [sum(heads) / len(heads) for heads in result.attention_kl or ()]
