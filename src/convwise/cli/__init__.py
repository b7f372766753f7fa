"""The command line, a file for each command that has more than a few options."""

__all__ = ["app"]
