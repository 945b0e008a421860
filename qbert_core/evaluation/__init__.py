"""Measure a plan: metric, flips and attention, as far as an edit changed them, batch by batch."""

from qbert_core.evaluation.calibration import calibration
from qbert_core.evaluation.evaluator import Evaluator
from qbert_core.evaluation.inspection import Inspection, Reading
from qbert_core.evaluation.result import Evaluation
from qbert_core.evaluation.slices import Flip, accuracy_by, flips

__all__ = ["Evaluation", "Evaluator", "Flip", "Inspection", "Reading", "accuracy_by", "calibration", "flips"]
