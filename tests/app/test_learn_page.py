"""Learn without a browser: six steps, nothing told before it is predicted, and the numbers' own answers."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from app import registries
from app.figures import fmt_error, fmt_percent
from app.lessons.plans import choice_plans, matrix_of, tables_plan
from app.lessons.questions import choice_truth, loss_truth
from app.lessons.texts import LESSONS
from app.views.learn import POLL
from app.views.steps import base
from app.weights import Answer, OneGroup
from app.workspace import Source, Workspace
from qbert_core.cli import parser
from qbert_core.curvature import Sensitivity
from qbert_core.quantization import fake_quantize
from tests.app.speaker import Speaker
from tests.app.test_pages import Visit, demo, visit  # noqa: F401
from tests.app.tools import looks_at, until

LAMBDAS = [[1.0, 2.0], [-3.0, -9.0], [0.5, 0.5]]


def at_lesson(source: Source | None = None, **query: str) -> Visit:
    """The page as a link to it opens it."""
    seen = visit(source)
    seen.until(lambda at: "examples" in " ".join(c.value for c in at.sidebar.caption), "the model loaded")
    for name, value in query.items():
        seen.at.query_params[name] = value
    seen.turn_to("learn")
    return seen


def predict(seen: Visit, option: str) -> None:
    (pills,) = [group for group in seen.at.main.button_group if option in group.options]
    pills.set_value(option)
    seen.run()


def reveal(seen: Visit) -> None:
    (button,) = [b for b in seen.at.main.button if b.label == "Reveal"]
    assert not button.disabled
    button.click()
    seen.run()


def told(seen: Visit) -> tuple[str, ...]:
    """What was predicted, whether that is so, the answer, and its numbers; () before it is revealed."""
    found = re.search(r'<div class="told" data-truth="known".*', seen.page_html(), re.DOTALL)
    if not found:
        return ()
    pattern = r'class="said">([^<]*)<.*?class="why">([^<]*)<'
    return tuple(unescape(part) for pair in re.findall(pattern, found[0], re.DOTALL) for part in pair)


def until_told(seen: Visit) -> tuple[str, ...]:
    seen.until(lambda _: told(seen), "the answer")
    return told(seen)


def document(workspace: Workspace) -> dict[str, Any]:
    """What the `sensitivity` command writes."""
    blocks = [
        {
            "name": f"bert.encoder.layer.{i}",
            "layer": i,
            "kind": "layer",
            "lambdas": own,
            "residuals": [0.01, 0.02],
        }
        for i, own in enumerate(LAMBDAS)
    ]
    written = Sensitivity.from_json(
        {"blocks": blocks, "runs": 2, "examples": 6, "seconds": 1.0, "hvp_count": 20, "stopped": "runs"}
    ).to_json()
    return {**written, "model": workspace.checkpoint.fingerprint}


@pytest.mark.parametrize("number", range(1, 7))
def test_every_step_has_its_formulas_a_control_and_a_question(source: Source, number: int) -> None:
    seen = at_lesson(source, lesson=str(number))
    at, lesson = seen.at, LESSONS[number - 1]
    assert at.query_params["lesson"] == str(number)
    assert len(at.latex) == len(lesson.formulas)
    assert lesson.text in [part.value for part in at.main.markdown]
    assert any("Predict first:" in part.value for part in at.main.markdown)
    controls = [*at.main.select_slider, *at.main.selectbox, *at.main.slider]
    assert controls
    (button,) = [b for b in at.main.button if b.label == "Reveal"]
    assert button.disabled, "predict first"
    assert not told(seen)
    assert not at.error


def test_what_was_predicted_stays_beside_what_was_measured(source: Source, workspace: Workspace) -> None:
    seen = at_lesson(source, lesson="1", tables="2")
    assert seen.card("Accuracy") == "?", "not before somebody has predicted"
    predict(seen, "1 to 5 points")
    assert seen.card("Accuracy") == "?"
    reveal(seen)
    plan = tables_plan(workspace.checkpoint.config, 2)
    before, after = (workspace.evaluator.evaluate(p) for p in (workspace.baseline, plan))
    expected = loss_truth(workspace.task, before, after)
    predicted, verdict, answer, numbers = until_told(seen)
    assert predicted == "1 to 5 points"
    assert (answer, numbers) == (expected.options[0], expected.words)
    assert verdict == ("as predicted" if predicted == answer else "not as predicted")
    seen.until(lambda _: "all 60" in seen.state(), "the card's numbers")
    assert seen.card("Accuracy") == fmt_percent(after.score.metrics["accuracy"])

    seen.at.main.select_slider[0].set_value(8)
    seen.run()
    assert seen.at.query_params["tables"] == "8"
    assert told(seen) == (predicted, verdict, answer, numbers), "the answer is to what was asked"
    other = workspace.evaluator.evaluate(tables_plan(workspace.checkpoint.config, 8))
    seen.until(
        lambda _: seen.card("Accuracy") == fmt_percent(other.score.metrics["accuracy"]),
        "the control's number",
    )
    seen.press("learn-again-1")
    assert not told(seen)
    assert seen.card("Accuracy") == "?"


def test_the_quantizers_numbers_are_those_of_the_chosen_group(
    source: Source, workspace: Workspace, tiny
) -> None:
    seen = at_lesson(source, lesson="3", layer="2", matrix="5", bits="3", count="heads", group="2")
    site = matrix_of(workspace.checkpoint.config, 1, 4)
    weight = tiny.weights[site.parameter]
    error = float((fake_quantize(weight, 3, 2) - weight)[16:].double().square().mean())
    seen.until(lambda _: "rows 17 to 32" in seen.page_html(), "the group's numbers")
    assert seen.card("Mean squared error") == fmt_error(error)
    seen.at.main.select_slider[0].set_value(1)
    seen.run()
    seen.until(lambda _: "of 2" in seen.card("Levels used"), "the new levels")
    assert seen.at.query_params["bits"] == "1"
    count = next(box for box in seen.at.main.selectbox if box.label == "Groups")
    count.set_value("1")
    seen.run()
    assert "group" not in seen.at.query_params, "there is only one now"
    assert not seen.at.error


def test_curvature_is_computed_on_demand_and_decides_the_last_two_steps(
    source: Source, workspace: Workspace, speaker: Speaker, folder: None
) -> None:
    seen = at_lesson(source, lesson="5")
    predict(seen, "L2")
    (button,) = [b for b in seen.at.main.button if b.label == "Reveal"]
    assert button.disabled, "there is no answer yet"
    train = next(box for box in seen.at.main.text_input if box.label == "Training data")
    train.set_value(source.data)
    (start,) = [b for b in seen.at.main.button if b.label.startswith("Compute a small one")]
    start.click()
    seen.run()
    until(lambda: speaker.commands, "the job started")
    command = speaker.commands[0]
    parsed = parser().parse_args(command)
    assert (command[0], parsed.model, parsed.block, parsed.train) == (
        "sensitivity",
        source.model,
        "layer",
        source.data,
    )
    assert [b.label for b in seen.at.main.button if b.label.startswith("Compute")] == []
    found = document(workspace)
    speaker.give(found)
    (job,) = registries.jobs().all()
    until(lambda: not job.active, "the job done")
    seen.run()
    reveal(seen)
    predicted, verdict, answer, numbers = until_told(seen)
    assert (predicted, verdict, answer) == ("L2", "as predicted", "L2"), "|-6| + 3 is the largest"
    assert "Ω = 9.00" in numbers

    seen.press("learn-next")
    predict(seen, "The paper’s")
    reveal(seen)
    answers = until_told(seen)
    config = workspace.checkpoint.config
    high = int(seen.at.main.slider[0].value)
    plans = choice_plans(config, "sst2", Sensitivity.from_json(found), high)
    expected = choice_truth(
        workspace.task, {choice: workspace.evaluator.evaluate(plan) for choice, plan in plans.items()}
    )
    assert answers[2:] == (" / ".join(expected.options), expected.words)


def test_training_data_that_is_none_is_said(source: Source, speaker: Speaker) -> None:
    seen = at_lesson(source, lesson="6")
    (start,) = [b for b in seen.at.main.button if b.label.startswith("Compute a small one")]
    start.click()
    seen.run()
    assert "Give the training data" in seen.at.error[0].value
    assert not speaker.commands


def test_steps_go_on_and_back_and_the_link_says_where(source: Source) -> None:
    seen = at_lesson(source, lesson="6", large="1", high="2")
    at = seen.at
    assert at.button(key="learn-next").disabled
    seen.press("learn-back")
    assert at.query_params["lesson"] == "5"
    assert at.query_params["large"] == "1"
    assert at.query_params["high"] == "2"
    (toggle,) = [t for t in at.main.toggle if t.label == "Large text"]
    assert toggle.value
    toggle.set_value(False)
    seen.run()
    assert "large" not in at.query_params
    (stepper,) = [g for g in at.main.button_group if len(g.options) == 6 and "Embedding" in g.options[0]]
    stepper.set_value(1)
    seen.run()
    assert at.query_params["lesson"] == "1"
    assert at.button(key="learn-back").disabled


def test_large_text_enlarges_figures_and_moves_no_number(source: Source) -> None:
    heights = []
    for large in ("0", "1"):
        seen = at_lesson(source, lesson="1", large=large)
        (figure,) = seen.at.get("plotly_chart")
        heights.append(float(re.search(r'"height":(\d+)', figure.proto.spec)[1]))
    assert heights[1] > 1.2 * heights[0]


def test_every_lesson_has_a_link_to_hand_out(source: Source) -> None:
    seen = at_lesson(source, lesson="2")
    links = [code.value for code in seen.at.main.code]
    assert [f"lesson={n}" in link for n, link in enumerate(links, 1)] == [True] * 6
    assert all("model=" in link and "plan=" not in link for link in links)


def test_weights_that_come_while_the_step_is_drawn_are_shown(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step began without them, so it is drawn again, though nothing is awaited any more."""
    asked: set[object] = set()

    class Late:
        """Answers every question but the first time."""

        def look(self, workspace: Workspace, question: OneGroup, _: float = 0.0) -> Answer | None:
            if question in asked:
                return Answer(question.ask(workspace.evaluator))
            asked.add(question)
            return None

    monkeypatch.setattr(base, "weights", Late)
    intervals = looks_at(monkeypatch, lambda draw: draw.__qualname__.endswith("Step.show"))
    seen = at_lesson(lesson="3")
    assert seen.card("Scale s") == "\N{EN DASH}"
    seen.run()
    assert seen.card("Scale s") != "\N{EN DASH}"
    assert intervals == [POLL, None], "looked at again until the page has run with all there is"
