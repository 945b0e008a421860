"""Learn: the method in six steps, each with its formula beside the number it makes; predict first, then reveal."""

from __future__ import annotations

import html
from dataclasses import replace
from urllib.parse import urlencode

import streamlit as st

from app import state
from app.history import leads
from app.lessons.handout import handout
from app.lessons.questions import Truth
from app.lessons.settings import Settings, settings_from
from app.lessons.texts import LESSONS
from app.polling import draw_until
from app.presses import once
from app.views.steps import STEPS, Step
from app.views.steps.base import Learn, Prediction
from app.waiting import loaded_workspace
from app.workspace import DEMO, Source, Workspace

POLL = 0.25  # seconds between looks at what is being computed
LARGE = 21.6  # pixels of a projector's base size; the usual one is 16
STYLE = """<style>
.st-key-learn-page p,.st-key-learn-page li{max-width:62ch}
.st-key-learn-page .katex-display{margin:0 0 .2rem!important;padding:.15rem 0;font-size:.92em}
[class*="st-key-learn-predict"] [role="radiogroup"]{flex-wrap:wrap;row-gap:.4rem} /* else the last is cut off */
.told{display:grid;grid-template-columns:1fr 1fr;gap:.5rem;min-height:5.2rem}
.told>div{border:1px solid color-mix(in srgb,currentColor 18%,transparent);border-radius:6px;padding:.4rem .65rem}
.told .label{font-size:.8125rem;opacity:.8}
.told .said{font-weight:600}
.told .why{font-size:.75rem;line-height:1.35;opacity:.85;font-variant-numeric:tabular-nums}
</style>"""
LARGE_STYLE = f"""<style>
html{{font-size:{LARGE}px!important}}
.cards{{grid-template-columns:repeat(2,minmax(0,1fr))!important}}
.card .note{{min-height:0!important}}
.told{{grid-template-columns:1fr}}
</style>"""


def page() -> None:
    title, tools = st.columns([3, 5], vertical_alignment="top")
    title.title("Learn")
    workspace = loaded_workspace()
    if workspace is None:
        return
    learn = _learn(workspace)
    current = state.tuning(workspace)
    with tools, st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        # with an element beside it: a style alone is put where a fragment's run may take it away again
        st.html(f"{STYLE}{LARGE_STYLE if learn.settings.large else ''}<span></span>", width="content")
        _tools(workspace, learn)
    with st.container(key="learn-page"):
        _stepper(learn)
        step = STEPS[learn.settings.lesson - 1](workspace, learn)
        step.begin()
        left, right = st.columns([48, 52] if learn.settings.large else [42, 58], gap="medium")
        with left:
            _teach(step)
            _predict(step)
        state.write_link(current, **learn.settings.to_query())
        with right:
            _show(step)


def _learn(workspace: Workspace) -> Learn:
    """The session's lessons on this workspace; as the link says at first, and after Back and Forward."""
    kept: dict[str, Learn] = st.session_state.setdefault("learn", {})
    linked = leads(kept)
    learn = kept.setdefault(workspace.key, Learn(Settings()))
    if linked:
        learn.settings = settings_from(st.query_params.to_dict(), workspace.checkpoint.config)
    return learn


def _tools(workspace: Workspace, learn: Learn) -> None:
    key = "learn-large"
    st.session_state[key] = bool(learn.settings.large)

    def sized() -> None:
        learn.settings = replace(learn.settings, large=int(st.session_state[key]))

    st.toggle("Large text", key=key, on_change=sized, help="Text and figures for a projector")
    with st.popover("Links", icon=":material/link:"):
        st.caption("The address of each lesson, to hand to a class.")
        for number, lesson in enumerate(LESSONS, 1):
            st.markdown(f"**{number} {lesson.title}**")
            st.code(
                _address(Settings(lesson=number, large=learn.settings.large)), language=None, wrap_lines=True
            )
    name = workspace.checkpoint.name
    data = "demo reviews" if workspace.source.data == DEMO else workspace.source.data
    asked = [step(workspace, learn).question(learn.settings) for step in STEPS]
    st.download_button(
        "Hand-out", lambda: handout(name, data, asked), "q-bert-in-six-steps.html", "text/html",
        icon=":material/print:", help="Formulas, questions and room for numbers: one page to print",
        on_click="ignore",
    )  # fmt: skip


def _address(settings: Settings) -> str:
    """A lesson from its start, on the model and data of this session."""
    asked, query = state.source(), settings.to_query()
    if asked.model != DEMO:
        query["model"] = asked.model
    if asked.data != DEMO:
        query["data"] = asked.data
    if asked.limit != Source.limit:
        query["rows"] = str(asked.limit)
    base = str(st.context.url or "").partition("?")[0]
    return f"{base}?{urlencode(query)}"


def _stepper(learn: Learn) -> None:
    key = "learn-lesson"
    st.session_state[key] = learn.settings.lesson

    def chosen() -> None:
        learn.settings = replace(learn.settings, lesson=st.session_state[key])

    def go(by: int) -> None:
        lesson = min(max(learn.settings.lesson + by, 1), len(LESSONS))  # pressed faster than the page is drawn
        learn.settings = replace(learn.settings, lesson=lesson)

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            "Previous step", icon=":material/arrow_back:", key="learn-back", help="Previous step",
            on_click=once(go), args=(-1,), disabled=learn.settings.lesson == 1,
        )  # fmt: skip
        st.segmented_control(
            "Step", range(1, len(LESSONS) + 1), key=key, on_change=chosen, required=True,
            label_visibility="collapsed", format_func=lambda number: f"{number} {LESSONS[number - 1].title}",
        )  # fmt: skip
        st.button(
            "Next step", icon=":material/arrow_forward:", key="learn-next", help="Next step",
            on_click=once(go), args=(1,), disabled=learn.settings.lesson == len(LESSONS),
        )  # fmt: skip


def _teach(step: Step) -> None:
    lesson = LESSONS[step.settings.lesson - 1]
    st.markdown(lesson.text)
    for formula in lesson.formulas:
        st.latex(formula)
    step.controls()


def _predict(step: Step) -> None:
    """The question; once answered, what was predicted beside what the numbers say."""
    learn, number = step.learn, step.settings.lesson
    question = step.question(step.asked)
    st.markdown(f"**Predict first:** {question.text}")
    prediction = learn.revealed.get(number)
    if prediction is None:
        option = st.pills(
            "Prediction", question.options, key=f"learn-predict-{number}", label_visibility="collapsed",
            persist_state="session",
        )  # fmt: skip

        def reveal() -> None:
            said = st.session_state.get(f"learn-predict-{number}")
            if said is not None:
                learn.revealed[number] = Prediction(said, step.settings)

        st.button(
            "Reveal", icon=":material/visibility:", type="primary", key=f"learn-reveal-{number}",
            disabled=option is None or bool(step.missing), on_click=reveal,
        )  # fmt: skip
        if step.missing:
            st.caption(step.missing)
        return
    st.html(_told(prediction.option, step.truth(prediction.asked)))

    def again() -> None:
        learn.revealed.pop(number, None)

    st.button("Ask again", icon=":material/replay:", key=f"learn-again-{number}", on_click=again)


def _told(predicted: str, truth: Truth | None) -> str:
    said = "Measuring …" if truth is None else " / ".join(truth.options) or "None of these"
    why = "" if truth is None else truth.words
    verdict = "" if truth is None else ("as predicted" if predicted in truth.options else "not as predicted")
    state_word = "pending" if truth is None else "known"
    return (
        f'<div class="told" data-truth="{state_word}" aria-live="polite"><div><div class="label">Predicted</div>'
        f'<div class="said">{html.escape(predicted)}</div><div class="why">{verdict}</div></div>'
        f'<div><div class="label">By the numbers</div><div class="said">{html.escape(said)}</div>'
        f'<div class="why">{html.escape(why)}</div></div></div>'
    )


def _show(step: Step) -> None:
    """Numbers and figures, looked at often while some are to come; what they answer is at the left."""
    draw_until(lambda: not step.waiting, step.show, POLL, behind=step.behind)
