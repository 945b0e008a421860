"""A size budget on page Bits: the plan of least predicted harm, and the slider that walks along the frontier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import streamlit as st

from app import state
from app.allocating import Harm, Objective, harm, objectives
from app.figures import fmt_error, layer_label
from app.plain import plain
from app.polling import run_page_when
from app.registries import live
from app.sessionjobs import own_jobs
from app.workspace import Workspace
from qbert_core.allocation import PlanFrontier
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, plan_size

WIDTHS = (2, 3, 4, 8)  # bits
PICKED = "budget-objective picked"  # by a person
LABEL = "Size budget, MB"
STEPS = 100  # of the slider, or up to ten times as many
LOOK = 0.3  # seconds between looks, while the weights are looked at


def budget_panel(workspace: Workspace, current: state.Tuning) -> None:
    """The slider, the button and what they go by."""
    head, options = st.columns([5, 2], vertical_alignment="bottom", gap="small")
    known = objectives(workspace, own_jobs())
    with options.popover("By", icon=":material/balance:", width="stretch"):
        objective, widths = _options(known)
    found, problem = None, ""
    try:
        found = _harm(workspace, current, objective)
        frontier = found.frontier(current.plan, widths) if found else None
    except InputError as error:
        frontier, problem = None, str(error)
    size = plan_size(workspace.checkpoint.config, current.plan).size_mb

    def allocate(budget: float) -> None:
        """With the plan and the locks as they are when it is called: the widgets may be of an earlier run."""
        now = _harm(workspace, current, objective)
        plans = now.frontier(current.plan, widths) if now else None
        if plans is None or budget < plans.sizes_mb[0]:
            return
        plan = plans.plan(plans.best(budget), f"budget {budget:.2f} MB")
        state.change(current, plan)
        current.allocated.add(plan.digest)
        # the slider stays where it was put, though the plan may be a little smaller
        st.session_state["budget"] = replace(_asked(), plan=plan.digest, budget=budget)

    with head:
        budget = _slider(current, frontier, size, allocate)
    st.button(
        "Allocate for me", icon=":material/auto_awesome:", key="allocate", width="stretch", disabled=frontier is None,
        help="The bits of least predicted harm at this size; locked layers and the embedding tables stay",
        on_click=allocate, args=(budget,),
    )  # fmt: skip
    with st.container():  # what is below keeps its place: an open list there would close
        _said(workspace, current, objective, found, frontier, problem)


def _harm(workspace: Workspace, current: state.Tuning, objective: Objective) -> Harm | None:
    """The weights are looked at when the plan's own numbers are there: those come first."""
    ready = live().settled(workspace, current.plan)
    return harm(workspace, current.plan, objective, current.locked, ask=ready)


def _options(known: list[Objective]) -> tuple[Objective, tuple[int, ...]]:
    names, key = [objective.name for objective in known], "budget-objective"
    picked = st.session_state.get(PICKED)
    wanted = picked if picked in names else names[0]  # the best there is, until somebody picks
    if st.session_state.get(key) != wanted:
        st.session_state[key] = wanted

    def pick() -> None:
        st.session_state[PICKED] = st.session_state[key]

    name = st.selectbox(
        "Predicted harm", names, key=key, on_change=pick,
        help="½ s |W − Q(W)|², summed over the layers: s is Ω of a finished analysis (page Sensitivity), or 1",
    )  # fmt: skip
    widths = st.pills(
        "Bits a layer may get", WIDTHS, selection_mode="multi", default=WIDTHS, key="budget-widths",
        persist_state="session",
    )  # fmt: skip
    return known[names.index(name)], tuple(widths)


@dataclass(frozen=True)
class _Asked:
    """The `budget` in MB asked for last, the digest of the `plan` it gave, and which slider shows it."""

    budget: float
    plan: str
    slider: int


def _asked() -> _Asked:
    asked: _Asked = st.session_state["budget"]
    return asked


def _slider(
    current: state.Tuning, frontier: PlanFrontier | None, size: float, allocate: Callable[[float], None]
) -> float:
    """The budget in MB, at first the `size` of the plan."""
    low, high = (float(frontier.sizes_mb[0]), float(frontier.sizes_mb[-1])) if frontier else (0.0, 0.0)
    if frontier is None or low == high:
        st.slider(LABEL, 0.0, 2 * size, size, format="%.2f", disabled=True, key="budget-none")
        return size
    st.session_state.setdefault("budget", _Asked(size, current.plan.digest, 0))
    if _asked().plan != current.plan.digest:  # the plan was changed elsewhere: another slider starts at its size
        st.session_state["budget"] = _Asked(size, current.plan.digest, _asked().slider + 1)
    asked = _asked()
    # Ends and places are whole steps: the browser rounds others, and a value rounded looks like a move.
    digits = max(0, math.ceil(math.log10(STEPS / (high - low))))
    step = 10.0**-digits
    least, most = round(math.ceil(low / step) * step, digits), round(math.ceil(high / step) * step, digits)
    shown = round(min(max(asked.budget, least), most), digits)
    key = f"budget-mb-{low:.6f}-{high:.6f}-{asked.slider}"  # other ends make another slider as well
    # What the script gives a slider the browser takes over, in the middle of a move as well: given once, no more
    begun = st.session_state.get("budget-slider", ("", 0.0))
    place = begun[1] if begun[0] == key else shown
    st.session_state["budget-slider"] = (key, place)

    def chosen() -> float:
        """What was asked, unless the handle was moved: the browser sends its place at other times, too."""
        value = float(st.session_state[key])
        return value if abs(value - shown) > step / 2 else asked.budget

    def moved() -> None:
        # not from a slider that was replaced, whose value the browser may send once more
        if st.session_state["budget-slider"][0] == key and chosen() != asked.budget:
            allocate(chosen())

    st.slider(
        LABEL, least, most, place, step, f"%.{digits}f", key=key, on_change=moved,
        help="Move it: the bits follow, at every size those of least predicted harm",
    )  # fmt: skip
    return chosen()


def _said(
    workspace: Workspace,
    current: state.Tuning,
    objective: Objective,
    found: Harm | None,
    frontier: PlanFrontier | None,
    problem: str,
) -> None:
    """One line of what the prediction says, always there."""
    if problem:
        st.caption(plain(problem))
        return
    if found is None or frontier is None:
        st.caption("Looking at the weights …")

        def ready() -> bool:
            try:
                return _harm(workspace, current, objective) is not None
            except InputError:
                return True  # the page says it

        run_page_when(ready, LOOK)
        return
    now = found.of(current.plan)
    best = float(frontier.harms[frontier.best(max(_size(found, current.plan), float(frontier.sizes_mb[0])))])
    locked = ", ".join(layer_label(layer) for layer in sorted(current.locked))
    words = f"Predicted harm {fmt_error(now)}"
    words += ", the least at this size" if now <= best * (1 + 1e-9) else f"; {fmt_error(best)} is possible"
    words += f". By {objective.basis}"
    st.caption(plain(f"{words}{f'; locked: {locked}' if locked else ''}."))


def _size(found: Harm, plan: Plan) -> float:
    return plan_size(found.config, plan).size_mb
