"""What one takes away: a packed checkpoint others can open, a recipe, a report."""

from qbert_core.export.load import Exported, load_exported
from qbert_core.export.write import Export, export_checkpoint

__all__ = ["Export", "Exported", "export_checkpoint", "load_exported"]
