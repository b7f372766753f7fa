"""What is said of a net or of one layer without a study."""

__all__ = ["checking", "landing", "models", "requests", "sight", "single", "words"]
