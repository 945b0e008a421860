"""How well one number ranks plans that were measured: rank correlations, and how sure they are.

All three are sums over pairs of plans, so ties and resampling need no special case. With s_ij the sign of
x_i - x_j, t_ij that of y_i - y_j, and w_i how often plan i counts:

    Kendall's tau-b   sum w_i w_j s_ij t_ij / sqrt(sum w_i w_j s_ij^2  sum w_i w_j t_ij^2)   (Kendall 1945)
    Spearman's rho    the correlation of r_i = sum_j w_j s_ij with the same of t: twice the average ranks

Near: tau-b over those pairs alone whose sizes are nearly equal. A larger plan is hardly ever the worse one,
so over plans of all sizes even a count of bytes ranks well; among equal sizes it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qbert_core.runtime.events import Events, Silent

Floats = NDArray[np.float64]

NEAR = 0.01  # sizes this far apart, as a share of the larger, count as equal
RESAMPLES = 1000
HALVES = 100  # splits of the examples
STATISTICS = ("spearman", "kendall", "near", "near_right")


@dataclass(frozen=True)
class Agreement:
    """A statistic and its 95 % interval; None where it is not defined: all values tied, no such pair."""

    value: float | None
    interval: tuple[float, float] | None


def signs(numbers: Floats) -> Floats:
    """(m, m): the sign of the difference of every two of (m,) numbers."""
    found: Floats = np.sign(numbers[:, None] - numbers[None, :])
    return found


def nearly_equal(sizes: Floats, near: float = NEAR) -> NDArray[np.bool_]:
    """(m, m): pairs of different plans whose `sizes`, (m,), differ by at most the share `near` of the larger."""
    close: NDArray[np.bool_] = np.abs(sizes[:, None] - sizes) <= near * np.maximum(sizes[:, None], sizes)
    np.fill_diagonal(close, False)
    return close


def agreements(
    first: Floats, second: Floats, near: NDArray[np.bool_], weights: Floats | None = None
) -> dict[str, float]:
    """Every one of `STATISTICS` of two numbers a plan, given as their `signs`; NaN where it is not defined.

    `near` says which pairs are of nearly equal size; `near_right` is the share of them, ties of either left
    out, that `first` and `second` order alike. `weights`: how often each plan counts, 1 when not given.
    """
    w = np.ones(len(first)) if weights is None else weights
    both = np.outer(w, w)
    product = first * second
    ranks, others = first @ w, second @ w
    agree, disagree = (both * near * (product == sign) for sign in (1, -1))
    return {
        "spearman": _ratio((w * ranks * others).sum(), (w * ranks**2).sum(), (w * others**2).sum()),
        "kendall": _tau(both, first, second, product),
        "near": _tau(both * near, first, second, product),
        "near_right": _share(agree.sum(), disagree.sum()),
    }


def resampled_agreements(
    predictors: Mapping[str, Floats],
    sums: Floats,
    measured: Callable[[Floats], Floats],
    sizes: Floats,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    events: Events | None = None,
) -> dict[str, dict[str, Agreement]]:
    """Predictor -> statistic -> its agreement with what was measured, with a 95 % interval.

    Args:
        predictors: by name a number a plan, (m,).
        sums: (m, n, k), what each of n examples adds to m plans; `measured` makes of sums over examples,
            (m, k), the number a plan, (m,). Larger predictor, larger measured: agreement.
        sizes: (m,), in any unit.

    The interval is the percentile bootstrap's over plans AND examples, drawn independently (the pigeonhole
    bootstrap, Owen 2007): other plans and other examples might have come. It is conservative, and as drawing
    examples anew adds their noise once more it leans towards 0. It always holds the value. Raises `Cancelled`
    when `events` says so.
    """
    events = events or Silent()
    plans, examples, _ = sums.shape
    near = nearly_equal(sizes)
    said = {name: signs(numbers) for name, numbers in predictors.items()}
    whole = signs(measured(sums.sum(1)))
    values = {name: agreements(pairs, whole, near) for name, pairs in said.items()}
    drawn: dict[str, list[dict[str, float]]] = {name: [] for name in said}
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        events.check()
        times = np.bincount(generator.integers(plans, size=plans), minlength=plans).astype(float)
        counts = np.bincount(generator.integers(examples, size=examples), minlength=examples)
        again = signs(measured(np.einsum("e,mek->mk", counts, sums)))
        for name, pairs in said.items():
            drawn[name].append(agreements(pairs, again, near, times))
    return {
        name: {
            statistic: _agreement(found[statistic], [one[statistic] for one in drawn[name]])
            for statistic in STATISTICS
        }
        for name, found in values.items()
    }


def halves_agreement(
    sums: Floats, measured: Callable[[Floats], Floats], sizes: Floats, *, seed: int, splits: int = HALVES
) -> dict[str, float | None]:
    """How well measuring on one half of the examples ranks the plans as the other half does: the mean of every
    statistic over random splits. A yardstick: two measurements agree no better. It is no ceiling, for a
    predictor has no noise of its own and is compared with all examples.

    Arguments as in `resampled_agreements`. None where a statistic was never defined.
    """
    near = nearly_equal(sizes)
    found = [
        agreements(signs(measured(sums[:, one].sum(1))), signs(measured(sums[:, other].sum(1))), near)
        for one, other in _splits(sums.shape[1], splits, seed)
    ]
    return {name: _mean([one[name] for one in found]) for name in STATISTICS}


def _splits(count: int, splits: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    generator = np.random.default_rng(seed)
    for _ in range(splits):
        order = generator.permutation(count)
        yield order[: count // 2], order[count // 2 :]


def _tau(weights: Floats, first: Floats, second: Floats, product: Floats) -> float:
    return _ratio((weights * product).sum(), (weights * first**2).sum(), (weights * second**2).sum())


def _ratio(shared: float, own: float, other: float) -> float:
    return float(shared / np.sqrt(own * other)) if own * other > 0 else float("nan")


def _share(agree: float, disagree: float) -> float:
    return float(agree / (agree + disagree)) if agree + disagree else float("nan")


def _agreement(value: float, drawn: list[float]) -> Agreement:
    defined = [number for number in drawn if np.isfinite(number)]
    if not np.isfinite(value) or not defined:
        return Agreement(None if not np.isfinite(value) else value, None)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Agreement(value, (min(float(low), value), max(float(high), value)))


def _mean(values: list[float]) -> float | None:
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else None
