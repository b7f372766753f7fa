"""What results say: paired trainings, effects with intervals, and the one experiment that asks for them."""

__all__ = ["bench", "edits", "effects", "experiment", "fitting", "fixes", "paired"]
