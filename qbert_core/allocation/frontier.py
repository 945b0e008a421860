"""The frontier as whole plans: what the units leave out, tables and locked layers, stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qbert_core.allocation.budget import Frontier, Unit
from qbert_core.allocation.units import sites_of_unit
from qbert_core.bert import BertConfig
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, SitePlan, plan_size
from qbert_core.quantization.size import MB


class PlanFrontier:
    """`start` with every assignment of its `units` that no other one beats in both size and harm.

    `sizes_mb` (ascending, of whole plans as `plan_size` counts them) and `harms` (descending) are aligned.
    `groups`: site -> count. Raises what `Frontier` does.
    """

    def __init__(
        self, config: BertConfig, start: Plan, units: Sequence[Unit], groups: Mapping[str, int]
    ) -> None:
        self.frontier = Frontier(units)
        self.harms = self.frontier.harms
        self._start = start
        self._sites = {unit.name: sites_of_unit(config, unit.name) for unit in units}
        self._groups = groups
        smallest = plan_size(config, self.plan(0, "")).size_mb
        # the rest is the same for every assignment
        self.sizes_mb: NDArray[np.float64] = (
            smallest + (self.frontier.sizes - self.frontier.sizes[0]).astype(np.float64) / MB
        )

    def __len__(self) -> int:
        return len(self.harms)

    def plan(self, index: int, name: str) -> Plan:
        """The assignment `index` as a plan."""
        entries = {
            site.name: SitePlan(width, self._groups[site.name])
            for unit, width in self.frontier.bits(index).items()
            for site in self._sites[unit]
        }
        return self._start.with_sites(entries, name)

    def best(self, budget_mb: float) -> int:
        """The assignment of least harm of at most `budget_mb`; `InputError` when none is."""
        half_a_byte = 0.5 / MB  # sizes are whole bytes: what MB lose when they are written down is less
        index = int(np.searchsorted(self.sizes_mb, budget_mb + half_a_byte, side="right")) - 1
        if index < 0:
            raise InputError(f"a budget of {budget_mb:g} MB; the smallest plan has {self.sizes_mb[0]:.2f} MB")
        return index
