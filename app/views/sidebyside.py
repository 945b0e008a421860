"""Two plans side by side: bits, numbers, their paired difference, answers and attention."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import streamlit as st

from app import selection, state
from app.exports import MAX_PLAN, plan_from_file
from app.figures import ROW, bits_pair, fmt_count, fmt_mb, kl_difference
from app.flipped import flip_table
from app.history import leads
from app.kept import show_kept
from app.link import plan_from_text, plan_to_text
from app.pairs import Results, changed_answers, metric_difference, numbers_table, site_bits, sites_that_differ
from app.plain import plain
from app.polling import draw_until
from app.registries import live
from app.tables import show_table
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.errors import InputError
from qbert_core.evaluation import Evaluation, Flip
from qbert_core.evaluation.paired import Difference
from qbert_core.quantization import Plan, plan_size, sites_of
from qbert_core.quantization.size import MB

POLL = 0.5  # seconds between looks at the two plans' numbers
NAMES = "AB"
CURRENT = "current"  # in place of a digest, and in the link: whatever plan is being tuned
DIFFERING, FLIPS = 7, 8  # rows of sites and of changed answers before their tables scroll

Compared = tuple[Difference | None, list[Flip] | None]


@dataclass
class Pair:
    """What a session compares on one workspace: digests, and the plans it opened for that."""

    chosen: dict[str, str]  # A and B
    opened: dict[str, Plan] = field(default_factory=dict)
    said: str | None = None  # what was wrong with the last file


def two_plans(workspace: Workspace, current: state.Tuning) -> None:
    pair = _pair(workspace)
    plans = _plans(workspace, current, pair)
    chosen = _choose(workspace, current, pair, plans)
    live().beside(state.session(), workspace, chosen)
    draw_until(
        lambda: all(live().settled(workspace, plan) for plan in chosen),
        lambda: _compare(workspace, chosen),
        POLL,
    )


def linked_pair(workspace: Workspace) -> bool:
    """Take the two plans of the link: a session's first ones, and after Back and Forward. Whether it holds any."""
    query = {name: st.query_params.get(name.lower(), "") for name in NAMES}
    if not any(query.values()) or not leads(st.session_state.setdefault("two plans", {})):
        return False
    pair, sites = _pair(workspace), sites_of(workspace.checkpoint.config)
    for name, text in query.items():
        if text == CURRENT:
            pair.chosen[name] = CURRENT
        elif text:
            try:
                plan = plan_from_text(text, sites)
            except InputError as error:
                st.toast(f"Plan {name}: {plain(str(error))}.", icon=":material/link_off:")
                continue
            pair.opened[plan.digest] = plan
            pair.chosen[name] = plan.digest
    return True


def pair_for_link(workspace: Workspace, current: state.Tuning) -> dict[str, str]:
    """The two plans as the address holds them."""
    pair = _pair(workspace)
    plans = _plans(workspace, current, pair)
    return {
        name.lower(): CURRENT if digest == CURRENT else plan_to_text(plans[digest])
        for name, digest in pair.chosen.items()
        if digest in plans
    }


def _pair(workspace: Workspace) -> Pair:
    kept: dict[str, Pair] = st.session_state.setdefault("two plans", {})
    return kept.setdefault(workspace.key, Pair({"A": workspace.start.digest, "B": CURRENT}))


def _plans(workspace: Workspace, current: state.Tuning, pair: Pair) -> dict[str, Plan]:
    """All there are to choose from: by digest, and the current one by its own name."""
    presets = {plan.digest: plan for plan in workspace.presets}
    return {CURRENT: current.plan} | presets | current.tried | pair.opened


def _choose(
    workspace: Workspace, current: state.Tuning, pair: Pair, plans: dict[str, Plan]
) -> tuple[Plan, Plan]:
    labels = _labels(workspace, plans)
    left, right, file = st.columns([3, 3, 2.2], vertical_alignment="bottom", gap="small")
    for column, name in ((left, "A"), (right, "B")):
        if pair.chosen[name] not in plans:
            pair.chosen[name] = CURRENT
        key = f"plan-{name}"
        st.session_state[key] = pair.chosen[name]
        choice, use = column.columns([3.4, 1.2], vertical_alignment="bottom", gap="small")

        def picked(name: str = name, key: str = key) -> None:
            pair.chosen[name] = st.session_state[key]

        choice.selectbox(f"Plan {name}", list(plans), key=key, on_change=picked, format_func=labels.get)
        plan = plans[pair.chosen[name]]
        use.button(
            f"Use {name}", key=f"use-{name}", width="stretch", on_click=state.change, args=(current, plan),
            disabled=plan.digest == current.plan.digest, help="Makes it the plan that is tuned; Undo goes back",
        )  # fmt: skip
    with file.popover("Open a plan file", icon=":material/upload_file:", width="stretch"):
        _open(workspace, pair)
    return plans[pair.chosen["A"]], plans[pair.chosen["B"]]


def _labels(workspace: Workspace, plans: dict[str, Plan]) -> dict[str, str]:
    """Name, bits and size; where they are alike a piece of the digest, too."""
    config = workspace.checkpoint.config
    labels = {}
    for key, plan in plans.items():
        size = plan_size(config, plan)
        name = f"Current plan: {plan.name}" if key == CURRENT else plan.name
        labels[key] = f"{name} · {size.effective_bits:.2f} bits · {fmt_mb(size.size_mb)}"
    often = Counter(labels.values())
    return {key: f"{text} · {key[:6]}" if often[text] > 1 else text for key, text in labels.items()}


def _open(workspace: Workspace, pair: Pair) -> None:
    """A file to compare with; the plan being tuned stays."""

    def opened() -> None:
        file = st.session_state["plan-beside"]
        pair.said = None
        if file is None:
            return
        try:
            plan = plan_from_file(file.getvalue(), workspace)
        except InputError as error:
            pair.said = str(error)
            return
        pair.opened[plan.digest] = plan
        pair.chosen["A"] = plan.digest

    st.file_uploader(
        "Plan as JSON", type="json", key="plan-beside", on_change=opened, max_upload_size=MAX_PLAN // MB,
        help="As page Export or the command line writes it. It becomes plan A here.",
    )  # fmt: skip
    if pair.said:
        st.error(plain(pair.said), icon=":material/error:")


def _complete(workspace: Workspace, plan: Plan) -> Evaluation | None:
    result = live().result(workspace, plan)
    return result if result and result.complete else None


def _compare(workspace: Workspace, plans: tuple[Plan, Plan]) -> None:
    first, second = plans
    config, dark = workspace.checkpoint.config, state.dark()
    results = (_complete(workspace, first), _complete(workspace, second))
    st.caption(_words(workspace, plans, results))
    for plan in plans:
        error = live().error(workspace, plan)
        if error:
            st.error(plain(error), icon=":material/error:")
    st.markdown("## Bits of A above those of B: what differs is outlined, the rest faded")
    content = (workspace.key, first, second, dark)
    show_kept(
        "bits-pair",
        content,
        lambda: bits_pair(site_bits(config, first), site_bits(config, second), dark=dark),
        layers=True,
    )
    compared = _compared(workspace, plans, results)
    numbers, attention = st.columns([52, 48], gap="medium")
    with numbers:
        st.markdown("## Numbers")
        table = numbers_table(workspace, plans, results, *compared)
        show_table(
            table,
            "two-plans",
            height=ROW * (len(table) + 1) + 3,
            column_config={
                "": st.column_config.TextColumn(width=150),
                "A": st.column_config.TextColumn(width=92, alignment="right"),
                "B": st.column_config.TextColumn(width=92, alignment="right"),
                "B \N{MINUS SIGN} A": st.column_config.TextColumn(
                    width=118,
                    alignment="right",
                    help="The metric's difference is a paired one: on the same examples, bootstrap over them",
                ),
            },
        )
    with attention:
        st.markdown("## Attention KL of B minus A: click marks a layer")
        kl = [r.attention_kl or () if r else () for r in results]
        show_kept(
            "kl-difference",
            (*content, all(results)),
            lambda: kl_difference(*kl, dark=dark),
            on_select=selection.on_click("kl-difference"),
            layers=True,
        )
        _differing(workspace, plans)
    _changed(workspace, compared[1])


def _compared(workspace: Workspace, plans: tuple[Plan, Plan], results: Results) -> Compared:
    """Paired difference and changed answers, made once a pair: the bootstrap takes a moment."""
    first, second = results
    if first is None or second is None:
        return None, None
    content = (workspace.key, *(plan.digest for plan in plans))
    known = st.session_state.get("compared")
    if known is None or known[0] != content:
        known = (content, (metric_difference(workspace, first, second), changed_answers(first, second)))
        st.session_state["compared"] = known
    made: Compared = known[1]
    return made


def _words(workspace: Workspace, plans: tuple[Plan, Plan], results: Results) -> str:
    words = WORDS[workspace.task.name]
    if plans[0].digest == plans[1].digest:
        return "A and B do the same: choose another plan for one of them."
    if all(results):
        many = f"{fmt_count(len(workspace.examples))} {words.many}"
        return f"Both measured on the same {many}; the interval of B − A is that of their paired difference."
    said = []
    for name, plan, result in zip(NAMES, plans, results, strict=True):
        if result is None:
            known = live().result(workspace, plan)
            total = fmt_count(len(workspace.examples))
            said.append(f"{name} {fmt_count(known.n if known else 0)} of {total}")
    return f"Measuring when no edit waits: {', '.join(said)} {words.many} so far …"


def _differing(workspace: Workspace, plans: tuple[Plan, Plan]) -> None:
    sites = sites_that_differ(workspace.checkpoint.config, *plans)
    st.markdown(f"## Sites that differ: {len(sites)}")
    if len(sites):
        show_table(
            sites,
            "sites-that-differ",
            height=ROW * (min(len(sites), DIFFERING) + 1) + 3,
            column_order=[name for name in sites.columns if name != "Site"],  # in full in the file
        )


def _changed(workspace: Workspace, changed: list[Flip] | None) -> None:
    words = WORDS[workspace.task.name]
    count = "…" if changed is None else fmt_count(len(changed))
    st.markdown(f"## {words.many.capitalize()} answered differently: {count}")
    if changed:
        show_table(
            flip_table(workspace, changed, "B", "A"),
            "changed-answers",
            height=ROW * (min(len(changed), FLIPS) + 1) + 3,
            column_config={
                words.one.capitalize(): st.column_config.TextColumn(width=420),
                "Change": st.column_config.TextColumn(help="From A to B"),
            },
        )
