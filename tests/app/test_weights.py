"""Weights looked at in the background: the engine's own numbers, and what goes wrong said."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from app.engine import Engine
from app.weights import MAX_LOOKS, ErrorsByCount, OneGroup, Weights, WholeSite
from app.workspace import Source, Workspace, open_workspace
from qbert_core.checkpoints import Checkpoint
from qbert_core.quantization import fake_quantize
from tests.app.tools import PATIENCE, until

SITE = "bert.encoder.layer.1.output.dense"


@pytest.fixture
def weights() -> Iterator[Weights]:
    made = Weights()
    yield made
    made.close()


def test_an_answer_is_about_the_models_own_weights(
    weights: Weights, workspace: Workspace, tiny: Checkpoint
) -> None:
    weight = tiny.weights[f"{SITE}.weight"]  # (16, 32)
    seen = weights.look(workspace, OneGroup(SITE, 3, 4, 2), PATIENCE)
    assert seen is not None
    assert seen.found.rows == (8, 12)
    expected = (fake_quantize(weight, 3, 4) - weight)[8:12].double().square().mean()
    assert seen.found.squared_error == pytest.approx(float(expected), rel=1e-6)
    errors = weights.look(workspace, ErrorsByCount(SITE, 4, (1, 16)), PATIENCE)
    assert errors is not None
    whole = weights.look(workspace, WholeSite(SITE, 4, 16, 99.0), PATIENCE)
    assert whole is not None
    error = (fake_quantize(weight, 4, 16, 99.0) - weight).double().square().mean()
    assert whole.found.squared_error == pytest.approx(float(error), rel=1e-6)
    every = [(fake_quantize(weight, 4, count) - weight).double().square().mean() for count in (1, 16)]
    assert errors.found == pytest.approx([float(error) for error in every], rel=1e-6)


def test_the_engines_process_gives_the_same(source: Source, workspace: Workspace) -> None:
    engine = Engine()
    try:
        remote = engine.open(source).evaluator
        here = workspace.evaluator
        one, other = (e.group_anatomy(SITE, 3, 4, 2) for e in (here, remote))
        assert one.errors == other.errors
        assert np.array_equal(one.uses, other.uses)
        assert here.site_anatomy(SITE, 3, 2, 100.0) == remote.site_anatomy(SITE, 3, 2, 100.0)
        assert here.errors_by_count(SITE, 4, (1, 2)) == remote.errors_by_count(SITE, 4, (1, 2))
    finally:
        engine.stop()


def test_what_is_not_there_is_said(weights: Weights, workspace: Workspace) -> None:
    no_site = weights.look(workspace, OneGroup("bert.pooler", 3, 4, 2), PATIENCE)
    assert no_site is not None
    assert "no site 'bert.pooler'" in (no_site.error or "")
    no_group = weights.look(workspace, OneGroup(SITE, 3, 4, 4), PATIENCE)
    assert no_group is not None
    assert "0 to 3" in (no_group.error or "")


def test_the_same_question_is_answered_once_and_few_are_kept(weights: Weights, workspace: Workspace) -> None:
    first = weights.look(workspace, OneGroup(SITE, 3, 1, 0), PATIENCE)
    assert weights.look(workspace, OneGroup(SITE, 3, 1, 0)) is first
    for bits in (1, 2):
        for group in range(16):
            weights.look(workspace, OneGroup(SITE, bits, 16, group), PATIENCE)
    assert len(weights._answers) == 33 <= MAX_LOOKS


def test_what_a_session_asked_that_ended_before_its_turn_is_answered_to_the_next(
    weights: Weights, source: Source
) -> None:
    """The same model loaded again asks the same question: it is not told that the model is gone."""
    free = threading.Event()
    weights._pool.submit(free.wait, PATIENCE)
    ended = open_workspace(source)
    assert weights.look(ended, OneGroup(SITE, 4, 1, 0)) is None
    del ended
    gc.collect()
    free.set()
    again = open_workspace(source)
    until(lambda: weights.look(again, OneGroup(SITE, 4, 1, 0), 0.1), "an answer")
    answer = weights.known(again, OneGroup(SITE, 4, 1, 0))
    assert answer is not None
    assert answer.error is None
    assert answer.found.errors == again.evaluator.group_anatomy(SITE, 4, 1, 0).errors


def test_a_model_nobody_holds_any_more_is_not_kept(weights: Weights, source: Source) -> None:
    opened = open_workspace(source)
    tensors = sum(1 for thing in gc.get_objects() if torch.is_tensor(thing))
    assert weights.look(opened, OneGroup(SITE, 3, 1, 0), PATIENCE) is not None
    del opened
    gc.collect()
    assert sum(1 for thing in gc.get_objects() if torch.is_tensor(thing)) < tensors
