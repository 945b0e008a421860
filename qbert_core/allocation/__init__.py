"""From sensitivity to bits."""

from qbert_core.allocation.perturbation import layer_perturbations
from qbert_core.allocation.ranking import allocate_by_rank, rank

__all__ = ["allocate_by_rank", "layer_perturbations", "rank"]
