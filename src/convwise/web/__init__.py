"""The page: follows a study while it runs, opens a finished one, and answers what another parameter
would do.
"""

__all__ = ["server"]
