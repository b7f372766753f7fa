"""Which single numbers of an ONNX file a training changes: what the file says of it, and what it
leaves open.

Arrays are told by the operators that read them. A single number that is multiplied or added may as
well be the 0.5 of a formula. torch.onnx.export with dynamo=True writes down which tensors are
parameters, and of what a folded constant was made. Without it, PyTorch keeps the names of a
module's parameters and buffers, and writes the numbers of the code as Constant operators. Other
programs tell nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

# Numbers of a constant, one or per channel, up to which it is not taken for weights unless a file
# says so
FEW = 4
# Operators in which constants meet maps
JOINING = ("Add", "Clip", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where")
_SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
_FOLDED = "pkg.onnxscript.optimizer.folded_from"
# The names of a module's parameters and buffers; those of the exporters are others
_NAME = re.compile(r"(?!val_\d|scalar_tensor)[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True)
class Told:
    """What a file says of its initializers.

    stored: all of them; whole: whether it says which of them are parameters; parameters: for each
    that is one, or is made of some, their names; named: where it does not say so, those with the
    name of a module's parameter or buffer.
    """

    stored: frozenset[str] = frozenset()
    whole: bool = False
    parameters: Mapping[str, frozenset[str]] = field(default_factory=dict)
    named: frozenset[str] = frozenset()

    def learnt(self, name: str) -> bool:
        """Whether a constant is counted as learnt wherever it is read."""
        return name in self.parameters or name in self.named

    def may_learn(self, name: str) -> bool:
        """Whether a constant is a parameter, as far as the file says."""
        return name in self.parameters if self.whole else name in self.stored


def told_by(model: onnx.ModelProto) -> Told:
    """What a model's metadata and names say."""
    names = [tensor.name for tensor in model.graph.initializer]
    signature = next(
        (each.value for each in model.graph.metadata_props if each.key == _SIGNATURE), ""
    )
    kinds = {
        target: kind for kind, target in re.findall(r": ([A-Z_]+) target='([^']*)'", signature)
    }
    if kinds:
        about = [
            (value.name, each) for value in model.graph.value_info for each in value.metadata_props
        ]
        folded = {
            name: re.findall(r"'([^']*)'", each.value)
            for name, each in about
            if each.key == _FOLDED
        }
        learning = {name for name, kind in kinds.items() if kind == "PARAMETER"}
        made = {name: frozenset(_origins(name, folded) & learning) for name in names}
        return Told(frozenset(names), True, {name: of for name, of in made.items() if of})
    if model.producer_name != "pytorch":
        return Told(frozenset(names))
    return Told(frozenset(names), named=frozenset(name for name in names if _NAME.fullmatch(name)))


def _origins(name: str, folded: Mapping[str, Iterable[str]]) -> set[str]:
    """What a constant was made of before it was folded; itself, where it was not."""
    seen, left = {name}, [name]
    while left:
        new = [each for each in folded.get(left.pop(), ()) if each not in seen]
        seen.update(new)
        left += new
    return seen


def is_plain(array: NDArray[np.generic]) -> bool:
    """Whether numbers look typed: at most four digits, or a root or reciprocal of such a number."""
    return all(
        any(_digits(form) <= 4 for form in _forms(float(each))) for each in array.reshape(-1)
    )


def _forms(number: float) -> tuple[float, ...]:
    square = number * number
    return (number, square, *((1 / number, 1 / square) if square else ()))


def _digits(number: float) -> int:
    return len(f"{abs(number):.6g}".partition("e")[0].replace(".", "").strip("0"))
