"""Images: any source -> decoded, upright, deduplicated, split into parts, the test part sealed."""

__all__ = ["decode", "limits", "loading", "preview"]
