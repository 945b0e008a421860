"""The paired bootstrap against scipy's, and what must hold for any answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm

from qbert_core.evaluation.paired import Difference
from qbert_core.evaluation.paired import paired_difference as of_grades
from qbert_core.tasks import TASKS


def paired_difference(before: list[bool], after: list[bool], seed: int) -> Difference:
    """Of an accuracy."""
    graded = ([(float(right),) for right in side] for side in (before, after))
    return of_grades(TASKS["sst2"], *graded, seed)


answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300)


def test_it_is_scipys_bootstrap_of_the_mean_of_the_differences() -> None:
    generator = np.random.default_rng(3)
    before = generator.random(400) < 0.9
    after = np.where(generator.random(400) < 0.15, ~before, before)
    ours = paired_difference(before.tolist(), after.tolist(), seed=0)
    theirs = bootstrap(
        (after.astype(float) - before,), np.mean, n_resamples=10_000, method="percentile", rng=generator
    ).confidence_interval
    step = 1 / 400  # both are means of whole numbers over 400
    assert ours.interval[0] == pytest.approx(theirs.low, abs=1.01 * step)
    assert ours.interval[1] == pytest.approx(theirs.high, abs=1.01 * step)


def test_many_examples_give_the_interval_of_the_central_limit() -> None:
    before = [True] * 9000 + [False] * 1000
    after = [True] * 8500 + [False] * 500 + [True] * 200 + [False] * 800
    found = paired_difference(before, after, seed=1)
    differences = np.array(after, float) - np.array(before, float)
    half = norm.ppf(0.975) * differences.std() / 100
    assert found.interval[0] == pytest.approx(-0.03 - half, abs=0.1 * half)
    assert found.interval[1] == pytest.approx(-0.03 + half, abs=0.1 * half)


@given(answers, st.integers(0, 2**32))
def test_the_interval_holds_the_mean_and_turns_over_with_the_models(pairs, seed) -> None:
    before, after = map(list, zip(*pairs, strict=True))
    found = paired_difference(before, after, seed)
    assert found.mean == pytest.approx(np.mean(after) - np.mean(before), abs=1e-12)
    assert (found.gained - found.lost) == sum(after) - sum(before)
    assert -1 <= found.interval[0] <= found.mean <= found.interval[1] <= 1
    assert paired_difference(before, after, seed) == found
    back = paired_difference(after, before, seed)
    assert (back.mean, back.gained, back.lost) == (-found.mean, found.lost, found.gained)


def test_equal_answers_have_no_spread_and_pairing_ignores_what_both_get_wrong() -> None:
    same = paired_difference([True, False, True], [True, False, True], seed=0)
    assert (same.mean, same.interval) == (0, (0, 0))
    # half of the examples are wrong in both models: unpaired, 200 examples would give about +- 0.1
    found = paired_difference([True] * 100 + [False] * 100, [True] * 98 + [False] * 102, seed=0)
    assert found.interval[1] - found.interval[0] < 0.04


def test_no_examples_and_unequal_numbers_are_refused() -> None:
    for before, after in (([], []), ([True, False], [True])):
        with pytest.raises(ValueError, match="answers; expected as many, at least one"):
            paired_difference(before, after, seed=0)


def test_a_difference_of_f1_is_of_f1_and_counts_answers_right_as_a_whole() -> None:
    before = [(1.0, 1.0), (0.0, 0.5), (0.0, 0.0)]
    after = [(0.0, 0.4), (1.0, 1.0), (0.0, 0.6)]
    found = of_grades(TASKS["squad"], before, after, seed=0)
    assert found.mean == pytest.approx((2.0 - 1.5) / 3)
    assert (found.gained, found.lost) == (1, 1)
    assert found.interval[0] < found.mean < found.interval[1]
