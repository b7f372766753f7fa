"""What is counted in ONNX files: shared weights once, work that is none of our layers, every
output, weights beside.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_onnx_learnt import EXPORTERS
from torch import nn

from convwise.core.calculus import analyse
from convwise.core.problems import ConvwiseError, ShapeError, UnusableInput
from convwise.formats.onnx import external, values
from convwise.formats.onnx.lift import lift, read
from convwise.inspect.checking import checked
from convwise.inspect.models import load
from onnx_graphs import floats, model_of, node, ops, run

# --- params ---------------------------------------------------------------------------------

BATCH = {
    "g": floats(3),
    "b": floats(3, seed=1),
    "m": floats(3, seed=2),
    "v": np.abs(floats(3, seed=3)),
}
STORED = {
    "a convolution twice": ([node("Conv", "x,k", "a", pads=[1] * 4), node("Relu", "a", "r"),
                             node("Conv", "r,k", pads=[1] * 4)], {"k": floats(3, 3, 3, 3)}),
    "with another bias": ([node("Conv", "x,k,b", "a"), node("Relu", "a", "r"), node("Conv",
    "r,k,c")],
                          {"k": floats(3, 3, 3, 3), "b": floats(3), "c": floats(3, seed=1)}),
    "turned": ([node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "f"), node("Gemm", "f,w",
    "a"),
                node("Relu", "a", "r"), node("Gemm", "r,w", transB=1)], {"w": floats(3, 6)}),
    "turned by an operator": ([node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "f"),
                               node("MatMul", "f,w", "a"), node("Relu", "a", "r"), node("Transpose",
                               "w", "t"),
                               node("MatMul", "r,t")], {"w": floats(3, 6)}),
    "normalisation": ([node("BatchNormalization", "x,g,b,m,v", "a"), node("Relu", "a", "r"),
                       node("BatchNormalization", "r,g,b,m,v")], BATCH),
    "transposed convolutions": ([node("ConvTranspose", "x,k", "a"), node("Relu", "a", "r"),
                                 node("ConvTranspose", "r,k")], {"k": floats(3, 3, 2, 2)}),
    "added per channel": ([node("Conv", "x,k", "c"), node("Relu", "c", "r"), node("Add", "r,b")],
                          {"k": floats(16, 3, 3, 3), "b": floats(16, 1, 1)}),
    "multiplied per channel": ([node("Conv", "x,k", "c"), node("Relu", "c", "r"), node("Mul",
    "b,r")],
                               {"k": floats(16, 3, 3, 3), "b": floats(16, 1, 1)}),
    "equal by chance": ([node("Conv", "x,k", "a"), node("Relu", "a", "r"), node("Conv", "r,l")],
                        {"k": np.zeros((3, 3, 3, 3), np.float32), "l": np.zeros((3, 3, 3, 3),
                        np.float32)}),
}  # fmt: skip


@pytest.mark.parametrize("name", STORED)
def test_every_stored_number_counts_once(name):
    nodes, tensors = STORED[name]
    model = model_of(nodes, tensors, ("n", 3, 8, 8))
    total = checked(lift(model)).analysis.total
    assert total.params == sum(array.size for array in tensors.values())
    assert not total.bounds


def test_places_and_steps_are_no_params():
    """As the heads of detectors add and multiply them, over all places and per channel."""
    nodes = [
        node("Conv", "x,k", "c"),
        node("Add", "c,places", "a"),
        node("Mul", "a,steps", "m"),
        node("Sub", "m,more"),
    ]
    tensors = {"k": floats(16, 3, 3, 3), "places": (np.arange(36.0,
               dtype=np.float32) + 0.5).reshape(1, 1, 6, 6),
               "steps": np.repeat(np.float32([8, 16]), 8).reshape(16, 1, 1),
               "more": np.arange(16.0, dtype=np.float32).reshape(16, 1, 1)}  # fmt: skip
    total = checked(lift(model_of(nodes, tensors, (1, 3, 8, 8)))).analysis.total
    assert (total.params, total.unknown, total.field.size) == (16 * 27, (), (3, 3))


def test_dynamically_quantised_kernels_are_convolutions():
    """As onnxruntime.quantization writes them: the image is quantised by its own range, the kernel
    by constants.
    """
    nodes = [node("DynamicQuantizeLinear", "x", "q,s,z"), node("ConvInteger", "q,k,z,o", "i",
             pads=[1] * 4), node("Cast", "i", "f", to=TensorProto.FLOAT), node("Mul", "s,t",
             "both"), node("Mul", "f,both", "m"), node("Add", "m,b")]  # fmt: skip
    tensors = {"k": np.arange(216, dtype=np.uint8).reshape(8, 3, 3, 3), "o": np.uint8(128),
               "t": np.float32(0.1),
               "b": floats(1, 8, 1, 1)}  # fmt: skip
    model = model_of(nodes, tensors, ("n", 3, 8, 8))
    assert run(model, floats(1, 3, 8, 8)).shape == (1, 8, 8, 8)
    found = checked(lift(model)).analysis
    assert (found.total.params, found.total.macs) == (216 + 8, 8 * 8 * 8 * 27)
    assert not found.total.unknown
    assert found.total.field.size == (3, 3)
    assert found.layers[-1].output_shape == (8, 8, 8)


# --- operators that are none of our layers -----------------------------------------------------

SPLIT = [node("Conv", "x,k", "c", pads=[1] * 4), node("Split", "c", "p,q", axis=1),
         node("Conv", "q,l", "d", pads=[1] * 4), node("Concat", "p,d", axis=1)]  # fmt: skip
KERNELS = {"k": floats(4, 3, 3, 3), "l": floats(2, 2, 3, 3)}
KNOWN = {  # nodes, constants, the px that one output sees
    "split": (SPLIT, KERNELS, 5),
    "slice of channels": ([node("Conv", "x,k", "c"), node("Slice", "c,from,to,axis")],
                          {"k": KERNELS["k"], "from": [0], "to": [2], "axis": [1]}, 3),
    "shuffle": ([node("Conv", "x,k", "c"), node("Reshape", "c,five", "s"),
                 node("Transpose", "s", "t", perm=[0, 2, 1, 3, 4]), node("Reshape", "t,four")],
                {"k": KERNELS["k"], "five": [1, 2, 2, 6, 6], "four": [1, 4, 6, 6]}, 3),
    "pixel shuffle": ([node("Conv", "x,k", "c"), node("DepthToSpace", "c", blocksize=2)],
    {"k": KERNELS["k"]}, 3),
    "corners": ([node("Conv", "x,k", "c"), node("Resize", "c,,z", mode="linear",
                                                coordinate_transformation_mode="align_corners")],
                {"k": KERNELS["k"], "z": np.array([1, 1, 2, 2], np.float32)}, 4),
    "bicubic": ([node("Conv", "x,k", "c"), node("Resize", "c,,z", mode="cubic",
                                                coordinate_transformation_mode="align_corners")],
                {"k": KERNELS["k"], "z": np.array([1, 1, 2, 2], np.float32)}, 6),
    "mirrored": ([node("Pad", "x,p", "a", mode="reflect"), node("Conv", "a,k")],
                 {"k": KERNELS["k"], "p": [0, 0, 1, 1, 0, 0, 1, 1]}, 3),
    "mean over channels": ([node("Conv", "x,k", "c"), node("ReduceMean", "c", axes=[1])],
    {"k": KERNELS["k"]}, 3),
    "spatial attention": ([node("Conv", "x,k", "c"), node("ReduceMean", "c", "m", axes=[1],
    keepdims=0),
                           node("ReduceMax", "c", "n", axes=[1], keepdims=0), node("Unsqueeze",
                           "m,one", "p"),
                           node("Unsqueeze", "n,one", "q"), node("Concat", "p,q", "r", axis=1),
                           node("Conv", "r,l", "s", pads=[1] * 4), node("Sigmoid", "s", "t"),
                           node("Mul", "c,t")],
                          {"k": KERNELS["k"], "one": [1], "l": floats(1, 2, 3, 3)}, 5),
    "max over channels": ([node("Conv", "x,k", "c"), node("ReduceMax", "c", axes=[1])],
    {"k": KERNELS["k"]}, 3),
    "space to depth": ([node("SpaceToDepth", "x", "a", blocksize=2), node("Conv", "a,k")],
                       {"k": floats(4, 12, 3, 3)}, 6),
    "space to depth by reshapes": ([node("Reshape", "x,cut", "r"),
                                    node("Transpose", "r", "t", perm=[0, 3, 5, 1, 2, 4]),
                                    node("Reshape", "t,map", "a"),
                                    node("Conv", "a,k")],
                                   {"k": floats(4, 12, 3, 3), "cut": [1, 3, 4, 2, 4, 2], "map": [1,
                                   12, 4, 4]}, 6),
    "depth to space by reshapes": ([node("Conv", "x,k", "c"), node("Reshape", "c,cut", "r"),
                                    node("Transpose", "r", "t", perm=[0, 1, 4, 2, 5, 3]),
                                    node("Reshape", "t,map")],
                                   {"k": KERNELS["k"], "cut": [1, 1, 2, 2, 6, 6], "map": [1, 1, 12,
                                   12]}, 3),
    "focus": ([*(node("Slice", f"x,{a}{b},end,axes,two", f"s{a}{b}") for a in (0, 1) for b in (0,
    1)),
               node("Concat", "s00,s10,s01,s11", "s", axis=1), node("Conv", "s,k")],
              {"k": floats(4, 12, 3, 3), "end": [8, 8], "axes": [2, 3], "two": [2, 2],
               **{f"{a}{b}": [a, b] for a in (0, 1) for b in (0, 1)}}, 6),
    "a stack summed": ([node("Conv", "x,k", "c"), node("Relu", "c", "r"), node("Unsqueeze",
    "c,zero", "p"),
                        node("Unsqueeze", "r,zero", "q"), node("Concat", "p,q", "s", axis=0),
                        node("ReduceSum", "s,zero", keepdims=0)], {"k": KERNELS["k"], "zero": [0]},
                        3),
    "split attention": ([node("Conv", "x,k", "c"), node("Reshape", "c,five", "s"),
                         node("ReduceSum", "s,one", "a", keepdims=0), node("GlobalAveragePool", "a",
                         "g"),
                         node("Conv", "g,m", "w"), node("Reshape", "w,pairs", "p"),
                         node("Transpose", "p", "t", perm=[0, 2, 1, 3]), node("Softmax", "t", "q",
                         axis=1),
                         node("Reshape", "q,weights", "u"), node("Mul", "s,u", "v"),
                         node("ReduceSum", "v,one", "z", keepdims=0), node("Conv", "z,n")],
                        {"k": KERNELS["k"], "five": [1, 2, 2, 6, 6], "one": [1], "m": floats(4, 2,
                        1, 1),
                         "pairs": [1, 1, 2, 2], "weights": [1, 2, 2, 1, 1], "n": floats(3, 2, 3,
                         3)}, 5),
    "selective kernels": ([node("Conv", "x,k", "c", pads=[1] * 4), node("Conv", "x,l", "d",
    pads=[2] * 4),
                           node("Unsqueeze", "c,one", "p"), node("Unsqueeze", "d,one", "q"),
                           node("Concat", "p,q", "s", axis=1), node("ReduceSum", "s,one", "a",
                           keepdims=0),
                           node("GlobalAveragePool", "a", "g"), node("Conv", "g,m", "w"),
                           node("Reshape", "w,weights", "u"), node("Softmax", "u", "f", axis=1),
                           node("Mul", "f,s", "v"), node("ReduceSum", "v,one", keepdims=0)],
                          {"k": KERNELS["k"], "l": floats(4, 3, 5, 5), "one": [1], "m": floats(8, 4,
                          1, 1),
                           "weights": [1, 2, 4, 1, 1]}, 5),
    "cut and padded": ([node("Conv", "x,k", "c"), node("Pad", "c,p")],
                       {"k": KERNELS["k"], "p": [0, 0, -1, 2, 0, 0, 1, -2]}, 3),
    "a row in order": ([node("Conv", "x,k", "c"), node("Reshape", "c,row", "r"), node("Gather",
    "r,i"),],
                       {"k": KERNELS["k"], "row": [-1], "i": np.arange(144).reshape(1, 4, 6, 6)},
                       3),
    "channels added, as by a shortcut": ([node("Conv", "x,k", "c"), node("Pad", "c,p")],
                                         {"k": KERNELS["k"], "p": [0, 2, 0, 0, 0, 2, 0, 0]}, 3),
    "root": ([node("Conv", "x,k", "c"), node("Abs", "c", "a"), node("Sqrt", "a")],
    {"k": KERNELS["k"]}, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_what_moves_no_place_or_a_known_way_leaves_all_known(name):
    nodes, tensors, px = KNOWN[name]
    model = model_of(
        nodes, {key: np.asarray(value) for key, value in tensors.items()}, (1, 3, 8, 8)
    )
    shape = run(model, floats(1, 3, 8, 8)).shape[1:]
    found = checked(lift(model)).analysis
    assert not found.total.bounds
    assert found.layers[-1].output_shape == shape
    assert found.total.field.known
    assert found.total.field.windows == (px, px)


def picked(n, units):
    """The px that each unit averages, as many for each, and which of them are too many."""
    starts, ends = (
        [i * n // units for i in range(units)],
        [-(-(i + 1) * n // units) for i in range(units)],
    )
    most = max(end - start for start, end in zip(starts, ends, strict=True))
    px = np.array([[start + k for k in range(most)] for start in starts])
    return px.clip(max=n - 1), px >= np.array(ends)[:, None], np.subtract(ends, starts)


def pooled(n, units, shift=0):
    """Adaptive pooling as PyTorch 2.14 writes it for n x n px: picked, too many of them set to 0,
    summed, divided.
    """
    px, over, many = picked(n, units)
    nodes = [node("Gather", "x,px", "rows", axis=2), node("Gather", "rows,px", "both", axis=4)]
    if not over.any():
        nodes += [node("ReduceMean", "both,axes", "y", keepdims=0)]
        return nodes, {"px": (px + shift) % n, "axes": np.array([3, 5])}
    nodes += [node("Where", "out_of_rows,zero,both", "some"), node("Where",
              "out_of_columns,zero,some", "kept"), node("ReduceSum", "kept,axes", "sums",
              keepdims=0), node("Div", "sums,many")]  # fmt: skip
    return nodes, {"px": (px + shift) % n, "axes": np.array([3, 5]), "zero": np.float32(0),
                   "out_of_rows": over[:, :, None, None], "out_of_columns": over,
                   "many": np.outer(many, many).astype(np.float32)}  # fmt: skip


@pytest.mark.parametrize(("n", "units"), [(7, 3), (7, 2), (7, 4), (8, 6)])
def test_adaptive_pooling_whose_windows_differ_is_read(n, units):
    nodes, tensors = pooled(n, units)
    model = model_of(nodes, tensors, (1, 3, n, n), opset=18)
    images = floats(1, 3, n, n)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(images), units)
    np.testing.assert_allclose(run(model, images), expected.movedim(1, -1), atol=1e-6)
    (layer,) = lift(model).net.layers
    assert (layer.op, layer.output_size) == ("AdaptiveAveragePooling2D", (units, units))
    other, tensors = pooled(n, units, shift=1)
    assert not checked(
        lift(model_of(other, tensors, (1, 3, n, n), opset=18))
    ).analysis.total.field.known


def test_channels_last_have_no_groups_of_channels_in_front():
    """What shuffles the channels of a map with those first shuffles the rows of this one."""
    nodes = [node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Conv", "a,k", "c"),
             node("Transpose", "c", "l", perm=[0, 2, 3, 1]), node("Reshape", "l,five", "s"),
             node("Transpose", "s", "t", perm=[0, 2, 1, 3, 4]), node("Reshape", "t,four", "r"),
             node("ReduceSum", "s,one", "z", keepdims=0)]  # fmt: skip
    tensors = {"k": KERNELS["k"], "five": np.array([1, 2, 3, 6, 4]), "four": np.array([1, 6, 6, 4]),
               "one": np.array([1])}  # fmt: skip
    for output in ("r", "z"):
        model = model_of(nodes, tensors, (1, 8, 8, 3), output=output)
        assert not checked(lift(model)).analysis.total.field.known


# (channels, places) and back
ROWS = [node("Reshape", "x,rows", "r"), node("Transpose", "r", "t", perm=[0, 2, 1])]
BACK = [node("Reshape", "s,map", "m"), node("Add", "m,x", "a"), node("Conv", "a,k")]
SCORES, SEEN = node("MatMul", "t,r", "c"), node("MatMul", "r,p", "s")
ATTENDING = {  # and whether each place surely sees all
    "places": ([SCORES, node("Softmax", "c", "p"), SEEN], True),
    "scaled": ([SCORES, node("Div", "c,eight", "d"), node("Softmax", "d", "p"), SEEN], True),
    "masked": ([SCORES, node("Add", "c,mask", "d"), node("Softmax", "d", "p"), SEEN], False),
    "not softened": ([SCORES, node("Relu", "c", "p"), SEEN], False),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENDING)
def test_where_all_places_attend_to_all_the_field_is_the_whole_image(name):
    nodes, whole = ATTENDING[name]
    tensors = {"rows": np.array([1, 3, 64]), "map": np.array([1, 3, 8, 8]), "k": floats(4, 3, 3, 3),
               "eight": np.float32(8), "mask": np.where(np.eye(64), 0,
               -np.inf).astype(np.float32)}  # fmt: skip
    model = model_of([*ROWS, *nodes, *BACK], tensors, (1, 3, 8, 8), opset=13)
    assert run(model, floats(1, 3, 8, 8)).shape == (1, 6, 6, 4)
    total = checked(lift(model)).analysis.total
    assert (total.unknown, total.field.known) == ((), whole)
    assert not whole or (total.field.size[0] >= 8 and total.field.windows == (3, 3))


class Context(nn.Module):
    """As GCNet's block: the mean of all places, each with a weight of its own, goes to all of
    them.
    """

    def __init__(self):
        super().__init__()
        self.stem, self.score, self.gate, self.last = (
            nn.Conv2d(*sides) for sides in ((3, 8, 3, 1, 1), (8, 1, 1), (8, 8, 1), (8, 4, 3, 1, 1))
        )
        self.passed_on = lambda context: context

    def forward(self, x):
        x = self.stem(x)
        weights = self.score(x).flatten(2).softmax(-1).unsqueeze(3)
        context = (x.flatten(2).unsqueeze(1) @ weights).view(len(x), 8, 1, 1)
        return self.last(x * self.gate(self.passed_on(context)).sigmoid())


def seen_by_the_middle(module, side=12):
    """The rows and columns between the first and last px with a gradient at the middle unit."""
    images = torch.rand(16, 3, side, side, requires_grad=True)
    module(images)[:, :, side // 2, side // 2].sum().backward()
    seen = images.grad.abs().sum((0, 1)) > 0
    return tuple(
        int(axis.nonzero()[-1] - axis.nonzero()[0] + 1) for axis in (seen.any(1), seen.any(0))
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", EXPORTERS)
def test_a_mean_with_a_weight_for_each_place_sees_the_whole_image(tmp_path, dynamo):
    for opset in (18,) if dynamo else (11, 13, 18):
        torch.manual_seed(0)
        module, path = Context().eval(), tmp_path / "net.onnx"
        images = torch.zeros(2, 3, 12, 12)
        torch.onnx.export(
            module, (images,), path, opset_version=opset, dynamo=dynamo, verbose=False
        )
        total = checked(read(path)).analysis.total
        assert (total.unknown, total.field.known) == ((), True)
        assert total.params == sum(each.numel() for each in module.parameters())
        assert tuple(min(n, 12) for n in total.field.size) == seen_by_the_middle(module) == (12, 12)
        module.passed_on = torch.Tensor.detach
        assert total.field.windows == seen_by_the_middle(module) == (5, 5)


@pytest.mark.parametrize("axis", [1, 2])
def test_a_softmax_over_parts_of_a_map_leaves_the_field_open(axis):
    nodes = [
        node("ReduceMean", "x", "m", axes=[1]),
        node("Reshape", "m,cut", "r"),
        node("Softmax", "r", axis=axis),
    ]
    model = model_of(nodes, {"cut": np.array([1, 4, 16])}, (1, 3, 8, 8))
    assert not checked(lift(model)).analysis.total.field.known


def test_a_map_that_is_cut_by_reshapes_has_no_known_field():
    """Blocks of px that become channels, and change places besides: the work is known, and no field
    is made up.
    """
    nodes = [node("Reshape", "x,cut", "r"), node("Transpose", "r", "t", perm=[0, 3, 5, 1, 4, 2]),
             node("Reshape", "t,map", "s"), node("Conv", "s,k")]  # fmt: skip
    tensors = {
        "cut": np.array([1, 3, 4, 2, 4, 2]),
        "map": np.array([1, 12, 4, 4]),
        "k": floats(4, 12, 3, 3),
    }
    total = checked(lift(model_of(nodes, tensors, (1, 3, 8, 8)))).analysis.total
    assert (total.field.known, total.macs) == (False, 2 * 2 * 4 * 108)


def test_large_kernels_that_are_standardised_are_worked_out(monkeypatch):
    """As torch.onnx.export writes F.batch_norm over the numbers of each filter: the file's size
    alone allows it.
    """
    kernel = floats(64, 16, 3, 3)
    nodes = [node("Reshape", "w,rows", "v"), node("ReduceMean", "v", "m", axes=[0, 2], keepdims=0),
             node("ReduceMean", "v", "n", axes=[0, 2], keepdims=1), node("Sub", "v,n", "d"),
             node("Mul", "d,d", "q"), node("ReduceMean", "q", "s", axes=[0, 2], keepdims=0),
             node("BatchNormalization", "v,g,z,m,s", "b"), node("Reshape", "b,back", "k"),
             node("Conv", "x,k")]  # fmt: skip
    tensors = {"w": kernel, "rows": np.array([1, 64, 144]), "back": np.array([64, 16, 3, 3]),
               "g": floats(64),
               "z": np.zeros(64, np.float32)}  # fmt: skip
    monkeypatch.setattr(values, "MOST_NUMBERS", 0)
    lifted = lift(model_of(nodes, tensors, (1, 16, 8, 8)))
    (layer,) = lifted.net.layers
    assert (layer.op, layer.filters) == ("Conv2D", 64)
    assert checked(lifted).analysis.total.params == kernel.size + 64  # with a gain for each filter


@pytest.mark.parametrize("images", [1, 3])
def test_products_of_two_maps_are_counted(images):
    """For one image, however many a file is made for."""
    nodes = [node("Flatten", "x", "f"), node("Unsqueeze", "f,one", "r"), node("Transpose", "r", "t",
             perm=[0, 2, 1]), node("MatMul", "t,r")]  # fmt: skip
    found = checked(lift(model_of(nodes, {"one": np.array([1])}, (images, 3, 4, 2)))).analysis
    assert found.total.macs == 24 * 24  # an outer product
    assert not found.total.unknown


def test_a_map_behind_a_reshape_that_is_none_of_ours_has_its_channels_last():
    """Rows of numbers that become channels, height and width, for a convolution."""
    nodes = [node("Reshape", "x,rows", "r"), node("MatMul", "r,w", "d"), node("Transpose", "d", "t",
             perm=[0, 2, 1]), node("Reshape", "t,map", "m"), node("Conv", "m,k")]  # fmt: skip
    tensors = {
        "rows": np.array([1, 64, 3]),
        "w": floats(3, 8),
        "map": np.array([1, 8, 8, 8]),
        "k": floats(4, 8, 3, 3),
    }
    found = checked(lift(model_of(nodes, tensors, (1, 3, 8, 8)))).analysis
    assert found.layers[-1].output_shape == (6, 6, 4)
    assert found.total.macs == 64 * 3 * 8 + 6 * 6 * 4 * 72
    turned = [node("Reshape", "x,map", "m"), node("Relu", "m", "r"), node("Conv", "r,k")]
    found = checked(
        lift(
            model_of(
                turned, {"map": np.array([1, 12, 4, 4]), "k": floats(4, 12, 3, 3)}, (1, 3, 8, 8)
            )
        )
    ).analysis
    assert [row.output_shape for row in found.layers] == [(4, 4, 12), (4, 4, 12), (2, 2, 4)]


# --- ends -----------------------------------------------------------------------------------


def test_every_output_and_what_none_reads_are_counted():
    nodes = [
        node("Conv", "x,k", "a"),
        node("Conv", "a,l", "y"),
        node("Conv", "a,m", "z"),
        node("Conv", "a,n", "w"),
    ]
    kernels = {
        "k": floats(4, 3, 3, 3),
        "l": floats(5, 4, 1, 1),
        "m": floats(6, 4, 1, 1),
        "n": floats(7, 4, 1, 1),
    }
    lifted = lift(model_of(nodes, kernels, more=["z"]))
    assert (lifted.net.layers[-1].name, lifted.outputs) == ("y", ("z",))
    assert checked(lifted).analysis.total.params == sum(array.size for array in kernels.values())
    said = {problem.where: problem.what for problem in checked(lifted).problems}
    assert "24 parameters" in said["model"]
    assert "28 parameters" in said["w"]


def test_maps_that_do_not_meet_are_named_with_their_sizes():
    nodes = [node("MaxPool", "x", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Conv", "p,k",
             "c", pads=[1] * 4), node("ConvTranspose", "c,t", "u", strides=[2, 2]), node("Concat",
             "u,x", axis=1)]  # fmt: skip
    model = model_of(nodes, {"k": floats(4, 3, 3, 3), "t": floats(4, 4, 2, 2)}, ("n", 3, "h", "w"))
    assert lift(model, (16, 16, 3)).net.layers[-1].op == "Concatenate"
    with pytest.raises(ShapeError) as error:
        lift(model, (17, 17, 3))
    said = str(error.value)
    assert "(Concat): reads u (1, 4, 16, 16), x (1, 3, 17, 17)" in said
    assert "value_info" not in said
    added = model_of(
        [node("Conv", "x,k", "a"), node("Add", "a,x")], {"k": floats(3, 3, 3, 3)}, (1, 3, 8, 8)
    )
    with pytest.raises(ConvwiseError, match=r"\(1, 3, 6, 6\).*\(1, 3, 8, 8\)"):
        lift(added)


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 13])
def test_weights_may_be_listed_as_inputs(opset):
    """As IR version 3 asks: PyTorch wrote such files up to 1.4 or so, with an opset of up to 11."""
    tensors = {"k": floats(8, 3, 3, 3), "b": floats(8)}
    model = model_of([node("Conv", "x,k,b", pads=[1] * 4)], tensors, (1, 3, 8, 8), opset=opset)
    model.ir_version = 3
    for name, array in tensors.items():
        model.graph.input.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        )
    total = analyse(lift(model).net).total
    assert (total.params, total.macs) == (224, 8 * 8 * 8 * 27)


@pytest.fixture
def beside(tmp_path):
    """A model whose weights lie in another file, and the model with all in it."""
    tensors = {"k": floats(8, 3, 3, 3), "shape": np.array([1, -1])}
    whole = model_of([node("Conv", "x,k", "a"), node("Reshape", "a,shape")], tensors, (1, 3, 8, 8))
    parted = onnx.ModelProto()
    parted.CopyFrom(whole)
    onnx.save_model(
        parted,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.onnx.data",
        size_threshold=0,
    )
    return tmp_path / "m.onnx", whole


def test_weights_beside_the_file_are_read(beside):
    path, whole = beside
    there, here = read(path), lift(whole)
    assert there.net == here.net
    assert all(np.array_equal(there.weights[key], array) for key, array in here.weights.items())


def test_of_too_many_weights_the_shapes_are_read(beside, monkeypatch):
    path, whole = beside
    monkeypatch.setattr(external, "MOST_BYTES", 100)
    monkeypatch.setattr(external, "SMALL", 10)
    lifted = load(path)
    assert lifted.net == lift(whole).net
    assert lifted.weights == {}
    assert "shapes alone" in lifted.problems[0].what


def test_a_missing_file_of_weights_is_named(beside):
    path, _ = beside
    (path.parent / "m.onnx.data").unlink()
    with pytest.raises(
        UnusableInput,
        match=r"m\.onnx: keeps its weights in 'm\.onnx\.data', which is not beside it",
    ):
        read(path)


def test_a_file_of_weights_that_is_cut_off_is_named(beside):
    path, _ = beside
    (path.parent / "m.onnx.data").write_bytes(b"1234")
    with pytest.raises(
        UnusableInput, match=r"cut off: m\.onnx\.data ends after 4 of its 864 bytes"
    ):
        read(path)


@pytest.mark.parametrize(
    "place",
    ["../secret", "/etc/passwd", "a/../../secret", "c:\\secret", "link", "linked/secret", ""],
)
def test_no_file_elsewhere_is_opened(tmp_path, place):
    (tmp_path / "secret").write_bytes(bytes(4 * 216))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    model = model_of([node("Conv", "x,k")], {"k": floats(8, 3, 3, 3)}, (1, 3, 8, 8))
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location=place)
    tensor.ClearField("raw_data")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnusableInput, match="not in its own folder: it was not opened"):
        read(folder / "m.onnx")


@pytest.mark.parametrize(
    "about", [{"offset": "-4"}, {"length": "99999999999999999999999"}, {"length": "4"}]
)
def test_places_in_a_file_that_cannot_be_are_refused(beside, about):
    path, _ = beside
    model = onnx.load_model_from_string(path.read_bytes())
    for entry in model.graph.initializer[0].external_data:
        entry.value = about.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnusableInput, match="expected 864 bytes"):
        read(path)


def test_numpy_arrays_come_from_the_bytes_beside(tmp_path):
    """Of a type that numpy does not have."""
    tensor = numpy_helper.from_array(floats(4, 3, 1, 1), "w")
    model = model_of(
        [node("Cast", "w", "k", to=TensorProto.FLOAT), node("Conv", "x,k")],
        {"w": floats(4, 3, 1, 1)},
    )
    model.graph.initializer[0].CopyFrom(
        helper.make_tensor(
            "w", TensorProto.BFLOAT16, (4, 3, 1, 1), numpy_helper.to_array(tensor).reshape(-1)
        )
    )
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="d", size_threshold=0
    )
    assert ops(read(tmp_path / "m.onnx", (8, 6, 3))) == ["Conv2D"]
