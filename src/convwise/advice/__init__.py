"""Look and advise: what the images are like, and the network that follows from it, with reasons."""

__all__ = ["advising", "doubts", "fingerprint", "outliers", "recipes", "rules", "target"]
