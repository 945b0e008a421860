"""The six steps of Learn, each with its control, its question and what it shows."""

from app.views.steps.base import Step
from app.views.steps.bits import BitsStep
from app.views.steps.curvature import CurvatureStep
from app.views.steps.embedding import EmbeddingStep
from app.views.steps.encoder import EncoderStep
from app.views.steps.groups import GroupsStep
from app.views.steps.quantizer import QuantizerStep

STEPS: tuple[type[Step], ...] = (
    EmbeddingStep,
    EncoderStep,
    QuantizerStep,
    GroupsStep,
    CurvatureStep,
    BitsStep,
)

__all__ = ["STEPS", "Step"]
