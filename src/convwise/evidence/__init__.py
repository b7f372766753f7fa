"""What results say: paired trainings, effects with intervals, and the experiment that asks."""

__all__ = ["bench", "edits", "effects", "experiment", "fitting", "fixes", "paired", "records"]
