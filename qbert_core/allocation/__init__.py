"""From sensitivity to bits."""

from qbert_core.allocation.budget import Choice, Frontier, Unit
from qbert_core.allocation.perturbation import layer_perturbations
from qbert_core.allocation.ranking import allocate_by_rank, rank
from qbert_core.allocation.units import sites_of_unit, units_of

__all__ = [
    "Choice", "Frontier", "Unit", "allocate_by_rank", "layer_perturbations", "rank", "sites_of_unit", "units_of",
]  # fmt: skip
