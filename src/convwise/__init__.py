"""convwise chooses the parameters of 2D convolutional networks from your own images, with
evidence.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convwise.estimators import ConvwiseClassifier, ConvwiseRegressor
    from convwise.examining import check
    from convwise.inspect.single import layer
    from convwise.measuring import measure
    from convwise.verbs import advise, choose, export, load, look, predict, read, report

__version__ = "0.1.0"
__all__ = [
    "ConvwiseClassifier",
    "ConvwiseRegressor",
    "advise",
    "check",
    "choose",
    "export",
    "layer",
    "load",
    "look",
    "measure",
    "predict",
    "read",
    "report",
]

# convwise talks to nobody. ONNX Runtime would, from 1.29 on: it reports each start to its maker,
# unless this is set before it is loaded.
# https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Those that are not in convwise.verbs, which loads the training engine.
_ELSEWHERE = {
    "ConvwiseClassifier": "convwise.estimators",
    "ConvwiseRegressor": "convwise.estimators",
    "check": "convwise.examining",
    "layer": "convwise.inspect.single",
    "measure": "convwise.measuring",
}


def __getattr__(name: str) -> Any:
    # On use, so that importing convwise.core loads neither numpy nor torch.
    if name in __all__:
        # tqdm warns in a notebook without widgets, with which nothing here draws
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")
            module = import_module(_ELSEWHERE.get(name, "convwise.verbs"))
        return getattr(module, name)
    raise AttributeError(f"module 'convwise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
