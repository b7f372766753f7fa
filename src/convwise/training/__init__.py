"""Trial -> Result: this machine, batches, the loop, tasks and the runners that trials run in."""

__all__ = ["batches", "host", "lab", "machine", "runners", "scores", "tasks", "train"]
