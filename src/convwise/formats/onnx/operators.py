"""What following a graph takes to know of operators: what is computed, what not inferred."""

from __future__ import annotations

import numpy as np
import onnx

from convwise.core.problems import UnusableInput

# What is computed of constants: what exporters leave, all linear in what it reads and gives.
COMPUTED = {
    "Abs", "Add", "And", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Concat",
    "ConstantOfShape", "Cos", "DequantizeLinear", "Div", "Equal", "Exp", "Expand", "Flatten",
    "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log",
    "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pad", "Pow",
    "QuantizeLinear", "Range", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "Relu", "Reshape", "Round", "Sigmoid", "Sign", "Sin", "Size",
    "Slice", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose",
    "Trilu", "Unsqueeze", "Where", "Xor",
}  # fmt: skip
# What gives the numbers that it reads, elsewhere or in another type.
SAME_NUMBERS = (
    "Cast",
    "DequantizeLinear",
    "Flatten",
    "Identity",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
# Opsets from which on onnx infers, or computes, what it does not before. Of pools before 22,
# inference counts windows of ceil_mode that start behind the map; no runtime does.
SINCE = {"MaxPool": 22, "AveragePool": 22, "DequantizeLinear": 19, "QuantizeLinear": 19, "Gelu": 20,
         "GreaterOrEqual": 16, "LessOrEqual": 16}  # fmt: skip
# Operators in which maps meet
MEETING = ("Add", "Concat", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where")
WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool")
# Operators whose output is shaped as their input, which onnx does not infer
AS_READ = ("GroupNormalization", "MeanVarianceNormalization")
CONSTANTS = {"value": None, "value_float": np.float32, "value_floats": np.float32,
              "value_int": np.int64,
              "value_ints": np.int64}  # fmt: skip


def lacking(node: onnx.NodeProto, opset: int) -> str:
    """What an operator must read or give, and does not; '' where nothing, or it is not ONNX's."""
    if not any(node.output):
        return "outputs"
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return ""
    needed = schema.inputs[: schema.min_input]
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for i, each in enumerate(needed):
        if len(node.input) <= i or (each.option == single and not node.input[i]):
            return f"its input {each.name}"
    return ""


def untold(
    where: str, reads: str, name: str, inferred: onnx.ValueInfoProto | None
) -> UnusableInput:
    """That a tensor's shape is told nowhere, or that it is a list of tensors, or may be missing."""
    lists = ("sequence_type", "optional_type")
    if inferred is not None and inferred.type.WhichOneof("value") in lists:
        what = (
            f"gives {name!r}, a list of tensors or one that may be missing, which is not followed"
        )
        fix = "export again with torch.onnx.export(..., dynamo=True), or write it anew by onnxsim"
        return UnusableInput(where, what, "tensors alone", fix)
    what = (
        f"reads {reads}, and the shape of its output, {name!r}, is not declared and cannot be"
        " inferred"
    )
    fix = (
        "where it runs, declare the shape as value_info, as onnxruntime.tools.symbolic_shape_infer"
        " does"
    )
    return UnusableInput(where, what, "a shape for every tensor", fix)
