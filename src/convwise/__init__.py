"""convwise chooses the parameters of 2D convolutional networks from your own images, with evidence."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["advise", "check", "choose", "layer", "look", "measure", "predict", "read"]


def __getattr__(name: str) -> Any:
    # On use, so that importing convwise.core loads neither numpy nor torch.
    if name == "layer":
        from convwise.inspect.single import layer

        return layer
    if name == "check":
        from convwise.inspect.checking import check

        return check
    if name == "measure":
        from convwise.measuring import measure

        return measure
    if name in __all__:
        from convwise import verbs

        return getattr(verbs, name)
    raise AttributeError(f"module 'convwise' has no attribute {name!r}")
