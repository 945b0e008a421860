"""Examples: whose answers the current plan changes, by kind, and what both models say to a text of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from app import state
from app.cards import Card, cards
from app.figures import ROW, fmt_count, fmt_interval, fmt_percent, fmt_probability, fmt_signed_points
from app.flipped import CHANGES, OTHER, RIGHT, WRONG, chosen_flips, counts, flip_csv, flip_table
from app.inspections import Example, Look
from app.items import Item, item_of, plan_column
from app.kept import kept
from app.kinds import EMPTY, MOST, Kind, kind_columns, right_by_kind
from app.looking import look_at
from app.measured import Measured, measured, measured_words, want
from app.plain import plain
from app.polling import draw_until
from app.presses import pressed
from app.registries import live
from app.tables import show_table
from app.views.answers import Both, answers_html, inspected
from app.views.attention import look_at_row, look_at_typed
from app.views.typed import type_in, typed_form
from app.waiting import loaded_workspace
from app.words import WORDS, quoted
from app.workspace import Workspace
from qbert_core.evaluation import Evaluation, Flip, Inspection
from qbert_core.quantization import Plan
from qbert_core.tasks.typed import MAX_CHARACTERS

POLL = 0.3
FIRST_LOOK = 0.25  # seconds
TABS = ("What changed", "By kind", "Type your own")
ALL = "all"
ANY = "any kind"
LISTED = 500  # flips in the table; the CSV has them all
SHOWN_ROWS = 9  # of the table of flips, before it scrolls


def page() -> None:
    st.title("Examples")
    workspace = loaded_workspace()
    if workspace is None:
        return
    current = state.tuning(workspace)
    plan = current.plan
    want(workspace, plan)
    state.write_link(current)
    _numbers(workspace, plan)
    now = measured(workspace, plan)
    changed, kinds, own = st.tabs(TABS, key="examples-tab", on_change="rerun")
    if changed.open:
        with changed:
            _changed(workspace, now)
    if kinds.open:
        with kinds:
            _kinds(workspace, now)
    if own.open:
        with own:
            _own(workspace, plan)


def _numbers(workspace: Workspace, plan: Plan) -> None:
    """The cards. What is below them is drawn with the first numbers and with the last, not in between: a
    table somebody reads must not change under their eyes."""
    live().wait(workspace, plan, more_than=0, timeout=FIRST_LOOK)
    settled = live().settled(workspace, plan)  # a plan that failed has no numbers to wait for
    known = live().result(workspace, plan) is not None

    def enough() -> bool:
        return live().settled(workspace, plan) or (not known and not measured(workspace, plan).outdated)

    def draw() -> None:
        now = measured(workspace, plan)
        if now.error:
            st.error(plain(now.error), icon=":material/error:")
        st.html(_cards(workspace, now))

    draw_until(enough, draw, POLL, behind=not (settled or known))


def _cards(workspace: Workspace, now: Measured) -> str:
    words, result = WORDS[workspace.task.name], now.result
    labels = ("Became wrong", "Became right", "Changed otherwise")
    notes = (
        "right in fp32, wrong in this plan",
        "wrong in fp32, right in this plan",
        "both right or both wrong",
    )
    if result is None:
        items = [Card(label, "\N{EN DASH}", ("", "")) for label in (*labels, words.metric)]
        return cards(items, outdated=True, state=measured_words(workspace, now), plan="", n=0)
    found = counts(result.flips)
    items = [
        Card(
            label,
            fmt_count(found[change]),
            (f"{fmt_percent(found[change] / result.n)} of {fmt_count(result.n)} {words.many}", note),
        )
        for label, note, change in zip(labels, notes, (WRONG, RIGHT, OTHER), strict=True)
    ]
    value, base = result.score.value, result.baseline.value
    items.append(
        Card(
            words.metric,
            fmt_percent(value),
            (
                f"fp32 {fmt_percent(base)}, {fmt_signed_points(value - base)}",
                f"95 %: {fmt_interval(*result.score.interval)}",
                f"n = {fmt_count(result.n)}",
            ),
        )
    )
    said = measured_words(workspace, now)
    return cards(items, outdated=now.outdated, state=said, plan=result.plan.digest, n=result.n)


def _changed(workspace: Workspace, now: Measured) -> None:
    """The table of flips beside the one that is chosen."""
    words, result = WORDS[workspace.task.name], now.result
    if result is None:
        st.caption(f"The {words.many} whose answer the plan changes appear here with the first numbers.")
        return
    if not result.flips:
        st.caption(
            f"{quoted(result.plan.name)} changes no answer of {fmt_count(result.n)} {words.many}. "
            "A plan with fewer bits does: choose one on the page Bits."
        )
        return
    kinds = _kinds_of(workspace)
    flips = _filtered(workspace, result, kinds)
    table, detail = st.columns([63, 37], gap="medium")
    with table:
        chosen = _table(workspace, result, flips, kinds)
    with detail:
        if chosen is None:
            st.caption("No flip fits the filter.")
        else:
            _detail(workspace, result.plan, chosen)


def _filtered(workspace: Workspace, result: Evaluation, kinds: Mapping[str, Sequence[str]]) -> list[Flip]:
    found = counts(result.flips)
    pick, search, sort = st.columns([6.2, 3, 3], gap="small", vertical_alignment="bottom")
    sizes = {ALL: len(result.flips), **found}
    change = pick.segmented_control(
        "Change", [ALL, *CHANGES], default=ALL, required=True, key="flips-change", persist_state="session",
        format_func=lambda name: f"{name} {fmt_count(sizes[name])}",
    )  # fmt: skip
    text = search.text_input("Text contains", key="flips-text", persist_state="session")
    kind = None
    column = next(iter(kinds), None)
    if column is not None:
        names = sorted({kinds[column][flip.index] for flip in result.flips})
        key = f"flips-kind-{workspace.key}-{column}"
        if st.session_state.get(key, ANY) not in (ANY, *names):
            st.session_state[key] = ANY
        name = sort.selectbox(plain(column.capitalize()), [ANY, *names], key=key)
        kind = (kinds[column], name) if name != ANY else None
    wanted = None if change == ALL else change
    return chosen_flips(workspace, result.flips, change=wanted, text=text or "", kind=kind)


def _table(
    workspace: Workspace, result: Evaluation, flips: list[Flip], kinds: Mapping[str, Sequence[str]]
) -> Flip | None:
    """The table; returns the flip that is chosen in it, at first the first."""
    unit = WORDS[workspace.task.name].one.capitalize()
    listed = flips[:LISTED]
    content = (workspace.key, result.plan.digest, result.plan.name, [flip.index for flip in listed])
    table = kept("flip table", content, lambda: flip_table(workspace, listed, result.plan.name))
    answers, narrow = table.columns[2:5], workspace.task.head == "sequence"
    key = f"flips-{result.plan.digest}-{result.n}-{hash(tuple(flip.index for flip in flips))}"
    selection = st.dataframe(
        table,
        hide_index=True,
        width="stretch",
        height=ROW * (SHOWN_ROWS + 1) + 3,
        on_select="rerun",
        selection_mode="single-row",
        key=key,
        column_config={
            "Row": st.column_config.NumberColumn(width=46, help="Number of the row in the data"),
            unit: st.column_config.TextColumn(width=202 if narrow else 190),
            **{name: st.column_config.TextColumn(width=74 if narrow else 110) for name in answers},
            "Change": st.column_config.TextColumn(width=112),
        },
    )["selection"]["rows"]
    note, download = st.columns([3, 2], vertical_alignment="center")
    note.caption(_note(result, len(flips)))
    download.download_button(
        f"All {fmt_count(len(result.flips))} as CSV",
        lambda: flip_csv(workspace, result, kinds),
        file_name=f"flips-{result.plan.name}.csv",
        mime="text/csv",
        icon=":material/download:",
        width="stretch",
        on_click="ignore",
        key="flips-csv",
    )
    if not result.complete:
        # any click draws the page anew: the button is for who finds nothing else to click
        st.button("Show what is measured by now", icon=":material/refresh:", key="flips-refresh")
    chosen = selection[0] if selection and selection[0] < len(flips) else 0
    return flips[chosen] if flips else None


def _note(result: Evaluation, count: int) -> str:
    text = f"{fmt_count(count)} shown; click a row's left edge to see it."
    if count > LISTED:
        text = f"The first {fmt_count(LISTED)} of {fmt_count(count)}; click a row's left edge to see it."
    return text if result.complete else f"{text} Of the first {fmt_count(result.n)} measured."


def _detail(workspace: Workspace, plan: Plan, flip: Flip) -> None:
    """One flip with both answers; how sure the models are of them follows a moment later."""
    item = item_of(workspace, flip.index)
    st.markdown(f"## Row {flip.index + 1}")
    place = st.container()
    look = look_at(workspace, plan, flip.index)
    seen = look.inspection if look else None
    with place:
        # the evaluation's answers: they are what was counted
        both = Both(plan.name, flip.before, flip.after, seen)
        _answers(workspace, item, both, "flipped")
        if look and look.error:
            st.error(plain(look.error), icon=":material/error:")

    def edit() -> None:
        type_in(workspace, "examples", item.texts)
        st.session_state["examples-tab"] = TABS[2]

    with st.container(horizontal=True, gap="small"):
        if pressed(st.button, "See its attention", icon=":material/visibility:", key="flip-attention"):
            look_at_row(workspace, flip.index)
        st.button(
            "Change its words", icon=":material/edit:", key="flip-edit", on_click=edit,
            help=f"A copy of it in {TABS[2]}: what would both models say to other words?",
            disabled=max(map(len, item.texts.values())) > MAX_CHARACTERS,
        )  # fmt: skip


def _answers(workspace: Workspace, item: Item, both: Both, name: str) -> None:
    st.html(
        answers_html(workspace.task.head, workspace.examples.labels, item, both, dark=state.dark()),
    )
    if both.seen is None:
        return
    with st.expander("Tokens" if workspace.task.head != "token" else "Word by word"):
        if workspace.task.head == "token":
            show_table(_words_table(item, both, both.seen), f"words-{name}", height=260)
        _tokens(both.seen)


def _tokens(seen: Inspection) -> None:
    part = f" Part {seen.window + 1} of {seen.windows} of the paragraph." if seen.windows > 1 else ""
    st.caption(f"{len(seen.tokens)} tokens, as the model reads them.{part}")
    st.code(" ".join(seen.tokens), language=None, wrap_lines=True)


def _words_table(item: Item, both: Both, seen: Inspection) -> pd.DataFrame:
    """Each word with both tags and how likely each model finds its own."""
    plan = plan_column(both.plan, "Word", "Right", "fp32", "fp32, p")
    sides = {"fp32": (both.before, seen.before), plan: (both.after, seen.after)}
    table: dict[str, list[str]] = {"Word": list(item.words)}
    if item.reference is not None:
        table["Right"] = list(item.reference)
    for name, (tags, reading) in sides.items():
        table[name] = list(tags)
        table[f"{name}, p"] = [
            fmt_probability(max(p)) if p is not None else "not read" for p in reading.certainty.probabilities
        ]
    return pd.DataFrame(table)


def _kinds_of(workspace: Workspace) -> dict[str, list[str]]:
    """Kinds, found once for each workspace of the session."""
    known = st.session_state.get("kinds")
    if known is None or known[0] != workspace.key:
        known = (workspace.key, kind_columns(workspace))
        st.session_state["kinds"] = known
    found: dict[str, list[str]] = known[1]
    return found


def _kinds(workspace: Workspace, now: Measured) -> None:
    """Right answers by kind, fp32 beside the plan."""
    words, result, kinds = WORDS[workspace.task.name], now.result, _kinds_of(workspace)
    if not kinds:
        st.caption(
            f"No column of the data has 2 to {MOST} different values besides those the task reads. Add one, such as "
            f"a source or a topic, and its kinds are compared here."
        )
        return
    if result is None:
        st.caption(f"Right answers by kind of {words.one} appear here with the first numbers.")
        return
    pick, _ = st.columns([3, 7])
    key = f"kind-column-{workspace.key}"
    column = pick.selectbox("Column", list(kinds), key=key)
    rows = right_by_kind(result, kinds[column])
    plan = plan_column(result.plan.name, "Kind", "n", "fp32", "fp32, 95 %", "Change")
    show_table(
        pd.DataFrame([_kind_row(kind, plan) for kind in rows]), "kinds", height=ROW * (len(rows) + 1) + 3
    )
    empty = f" {EMPTY}: rows with nothing in this column." if EMPTY in kinds[column] else ""
    st.caption(
        f"{words.right} Share of {words.many} that are right, with Wilson's 95 % interval, both models on the same "
        f"{fmt_count(result.n)} {words.many}. The fewer of a kind, the wider its interval.{empty}"
    )


def _kind_row(kind: Kind, plan: str) -> dict[str, str | int]:
    return {
        "Kind": kind.name,
        "n": kind.n,
        "fp32": fmt_percent(kind.before),
        "fp32, 95 %": fmt_interval(*kind.before_interval),
        plan: fmt_percent(kind.after),
        f"{plan}, 95 %": fmt_interval(*kind.after_interval),
        "Change": fmt_signed_points(kind.after - kind.before),
    }


def _own(workspace: Workspace, plan: Plan) -> None:
    """A text of one's own, and both answers."""
    form, answer = st.columns([42, 58], gap="medium")
    with form:
        example = typed_form(workspace, "examples")
    with answer:
        if example is None:
            st.caption("Both models answer here: fp32 and the current plan, side by side.")
            return
        place = st.container()
        _typed_answer(workspace, example, look_at(workspace, plan, example), place)


def _typed_answer(
    workspace: Workspace, example: Example, look: Look | None, place: st.delta_generator.DeltaGenerator
) -> None:
    with place:
        if look is None:
            st.caption("Both models are reading …")
        elif look.inspection is None:
            st.error(plain(look.error or ""), icon=":material/error:")
        else:
            _answers(workspace, item_of(workspace, example), inspected(look.inspection), "typed")
            if pressed(st.button, "See its attention", icon=":material/visibility:", key="typed-attention"):
                look_at_typed()
