"""How sure a ranking is: the bootstrap over runs, and an analysis that ends when it is sure."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Stability, sensitivity, stability
from qbert_core.errors import InputError
from qbert_core.tasks import Examples, task_named

SST2 = task_named("sst2")
SENTENCES = (
    "good", "a bad film", "so very slow and dull", "they like it", "clever", "the actor was great",
    "not a good script , not a great end", "funny", "i hate that john", "warm moving music", "awful",
    "she never made more",
)  # fmt: skip
samples = arrays(np.float64, st.tuples(st.integers(3, 7), st.integers(2, 5)), elements=st.floats(-9, 9))


@pytest.fixture(scope="module")
def examples(tiny: Checkpoint) -> Examples:
    table = pd.DataFrame({"sentence": SENTENCES, "label": [i % 2 for i in range(len(SENTENCES))]})
    return SST2.examples(table, tiny, "twelve sentences")


def known(lambdas: Any, high: int = 1, confidence: float = 0.95, seed: int = 0) -> Stability:
    found = stability(lambdas, high=high, confidence=confidence, seed=seed)
    assert found is not None
    return found


@given(samples)
def test_orders_are_probabilities_and_the_history_is_that_of_fewer_runs(lambdas: np.ndarray) -> None:
    found = known(lambdas)
    pairs = np.array(found.pairs)
    assert pairs + pairs.T == pytest.approx(np.ones_like(pairs))
    assert np.diag(pairs) == pytest.approx(np.full(len(pairs), 0.5))
    assert 0 <= found.probability <= 1
    assert found.history[-1] == (len(lambdas), found.probability)
    for fewer in range(3, len(lambdas)):
        assert known(lambdas[:fewer]).history == found.history[: fewer - 2]
    assert Stability.from_json(json.loads(json.dumps(found.to_json())), "s", len(pairs)) == found


@given(samples, st.data())
def test_the_set_is_that_of_the_largest_omegas(lambdas: np.ndarray, data: st.DataObject) -> None:
    high = data.draw(st.integers(1, lambdas.shape[1] - 1))
    omegas = np.abs(lambdas.mean(0)) + lambdas.std(0)
    chosen = known(lambdas, high).chosen
    rest = [i for i in range(len(omegas)) if i not in chosen]
    assert len(chosen) == high
    assert min(omegas[list(chosen)]) >= max(omegas[rest]) - 1e-12


def test_runs_that_agree_leave_no_doubt() -> None:
    found = known([[1.0, 5.0, 3.0, 2.0]] * 6, high=2)
    assert (found.chosen, found.probability, found.stable_after) == ((1, 2), 1.0, 5)
    assert found.pairs[1] == (1.0, 0.5, 1.0, 1.0)


def test_blocks_drawn_alike_leave_it_open() -> None:
    lambdas = np.random.default_rng(3).normal(5, 1, (40, 2))
    lambdas[:, 1] = lambdas[::-1, 0]  # the same numbers: equal mean and deviation
    found = known(lambdas)
    assert found.pairs[0][1] == pytest.approx(0.5, abs=0.05)
    assert found.stable_after is None


def test_the_share_of_resamples_is_that_of_a_plain_loop() -> None:
    lambdas = np.random.default_rng(0).normal([3, 3.5, 1], 1.0, (8, 3))
    random = np.random.default_rng(7)
    same = 0
    for _ in range(4000):
        resample = lambdas[random.integers(0, 8, 8)]
        omegas = np.abs(resample.mean(0)) + resample.std(0)
        same += int(omegas.argmax() == 1)
    found = known(lambdas)
    assert found.chosen == (1,)
    assert found.probability == pytest.approx(same / 4000, abs=0.03)


def test_two_runs_say_nothing() -> None:
    assert stability([[1.0, 2.0]] * 2, high=1, confidence=0.9) is None


def test_an_analysis_ends_when_the_set_is_stable(tiny: Checkpoint, examples: Examples) -> None:
    options: Any = {"fraction": 0.5, "seed": 1, "high": 1, "confidence": 0.5}
    seen = []
    found = sensitivity(
        tiny, SST2, examples, runs=30, until_stable=True, on_run=lambda r: seen.append(r.run), **options
    )
    assert found.stopped == "stable"
    assert found.stability is not None
    assert found.runs == found.stability.stable_after == len(seen) < 30
    assert found.stability.probability >= 0.5
    assert found.stability.history[-2][1] < 0.5 or found.runs == 5
    plain = sensitivity(tiny, SST2, examples, runs=found.runs, **options)
    assert [b.lambdas for b in plain.blocks] == [b.lambdas for b in found.blocks]
    assert (plain.stopped, plain.stability) == ("runs", found.stability)


def test_an_analysis_that_never_gets_sure_ends_with_its_runs(tiny: Checkpoint, examples: Examples) -> None:
    found = sensitivity(tiny, SST2, examples, runs=4, fraction=0.2, until_stable=True, confidence=0.999)
    assert (found.stopped, found.runs) == ("runs", 4)
    assert found.stability is not None
    assert found.stability.stable_after is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "confidence is 1.0; expected"),
        ({"confidence": 0.2}, "confidence is 0.2; expected"),
        ({"high": 0}, "high is 0; expected 1 to 2"),
        ({"high": 3}, "high is 3; expected 1 to 2"),
    ],
)
def test_options_out_of_range_are_refused(
    tiny: Checkpoint, examples: Examples, options: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sensitivity(tiny, SST2, examples, runs=3, **options)
