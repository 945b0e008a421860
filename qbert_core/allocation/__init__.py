"""From sensitivity to bits."""

from qbert_core.allocation.budget import Choice, Frontier, Unit
from qbert_core.allocation.frontier import PlanFrontier
from qbert_core.allocation.perturbation import layer_perturbations
from qbert_core.allocation.ranking import allocate_by_rank, rank
from qbert_core.allocation.units import curvatures, make_unit, sites_of_unit, units_of

__all__ = [
    "Choice", "Frontier", "PlanFrontier", "Unit", "allocate_by_rank", "curvatures", "layer_perturbations", "make_unit",
    "rank", "sites_of_unit", "units_of",
]  # fmt: skip
