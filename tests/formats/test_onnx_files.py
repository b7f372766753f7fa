"""ONNX files that are wrong, hostile or hold operators that are none of our layers."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from onnx import TensorProto, helper

from convwise.core.calculus import analyse
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.formats import onnx as onnx_format
from convwise.formats.onnx.lift import lift, read
from nets import random_net, random_weights
from onnx_graphs import floats, model_of, node, ops, run

# --- files that are wrong -----------------------------------------------------------------------


def test_corrupted_files_are_reported_in_one_sentence(tmp_path):
    net = random_net(random.Random(3))
    whole = onnx_format.build(net, random_weights(net)).SerializeToString()
    rng = random.Random(0)
    for trial in range(60):
        start = rng.randrange(len(whole))
        broken = [
            whole[:start],
            whole[:start] + rng.randbytes(9) + whole[start + 9 :],
            rng.randbytes(99),
        ][trial % 3]
        (tmp_path / "model.onnx").write_bytes(broken)
        try:
            read(tmp_path / "model.onnx")
        except UnusableInput as error:
            assert "\n" not in str(error)  # noqa: PT017
    for text in (b"", b"not onnx"):
        (tmp_path / "model.onnx").write_bytes(text)
        with pytest.raises(
            UnusableInput, match=r"model.onnx: (holds no ONNX graph|cannot be read as ONNX)"
        ):
            read(tmp_path / "model.onnx")
    with pytest.raises(UnusableInput, match="is not a file"):
        read(tmp_path / "missing.onnx")


def test_other_files_and_other_inputs_are_refused():
    model = model_of([node("Conv", "x,k")], {"k": floats(4, 3, 3, 3)})
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(
        UnusableInput, match="weight k: is kept in another file, '', which was not read"
    ):
        lift(model)
    with pytest.raises(UnusableInput, match="has the inputs x of 2 axes"):
        lift(model_of([node("Relu", "x")], shape=("n", 3)))
    two = model_of([node("Add", "x,z")])
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 3, 8, 6)))
    with pytest.raises(UnusableInput, match="has the inputs x of 4 axes, z of 4 axes"):
        lift(two)
    with pytest.raises(UnusableInput, match="reads 'z', which nothing produces"):
        lift(model_of([node("Add", "x,z")]))
    odd = model_of([helper.make_node("Odd", ["x"], ["a"], domain="com.example"), node("Relu", "a")])
    odd.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnusableInput, match=r"com.example.Odd\).*'a', is not declared.*value_info"):
        lift(odd)
    odd.graph.value_info.append(
        helper.make_tensor_value_info("a", TensorProto.FLOAT, ("n", 5, 4, 3))
    )
    assert ops(lift(odd)) == ["Opaque", "Activation"]


@pytest.mark.parametrize(
    ("kind", "attributes", "constants", "said"),
    [
        ("Conv", {}, {"k": (4, 3, 9, 3)}, "a window of 9x3 on a map of 8x6, its padding included"),
        (
            "Conv",
            {"dilations": [4, 1], "pads": [0, 0, 0, 1]},
            {"k": (4, 3, 3, 8)},
            "a window of 9x8 on a map of 8x7",
        ),
        ("MaxPool", {"kernel_shape": [2, 7]}, {}, "a window of 2x7 on a map of 8x6"),
        ("MatMul", {}, {"k": (5, 4)}, "which do not fit together: "),
        (
            "Resize",
            {},
            {"": (), "k": (4,)},
            r"\(Resize\): reads x \(1, 3, 8, 6\) and gives \(1, 3, 0, 0\), which holds no numbers",
        ),
    ],
)
def test_sizes_that_leave_nothing_are_told_in_numbers(kind, attributes, constants, said):
    """Not that a shape is not declared, which it need not be. ONNX Runtime refuses the same
    files.
    """
    arrays = {key: floats(*shape) for key, shape in constants.items() if key}
    if kind == "Resize":
        arrays["k"] = np.array([1, 1, 0.01, 0.01], np.float32)
    model = model_of([node(kind, ",".join(["x", *constants]), **attributes)], arrays)
    with pytest.raises(ConvwiseError, match=said) as error:
        lift(model)
    assert "value_info" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 3, 8, 8, 8), "networks for sequences and volumes are not read"),
        ((1, 3, 8), "networks for sequences and volumes are not read"),
        (None, "declare the shape of its input"),
    ],
)
def test_inputs_that_are_no_images_have_a_next_step(shape, said):
    with pytest.raises(UnusableInput, match=said):
        lift(model_of([node("Relu", "x")], shape=shape))


def test_numbers_go_back_into_the_windows_that_they_are_the_maxima_of():
    """As wide as an upsampling by the same factor: the field of a 3x3 convolution on a map of half
    the size.
    """
    pool = helper.make_node("MaxPool", ["x"], ["p", "i"], kernel_shape=[2, 2], strides=[2, 2])
    unpool = helper.make_node("MaxUnpool", ["p", "i"], ["u"], kernel_shape=[2, 2], strides=[2, 2])
    lifted = lift(
        model_of([pool, unpool, node("Conv", "u,k", pads=[1, 1, 1, 1])], {"k": floats(4, 3, 3, 3)})
    )
    total = analyse(lifted.net).total
    assert total.macs == 4 * 27 * 8 * 6
    assert total.field.size == (4, 4)


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_cost_their_matrices_at_each_step(kind, gates):
    """3 steps of 8 sequences of 6 numbers, to 5 both ways."""
    arrays = {"k": floats(2, gates * 5, 6), "r": floats(2, gates * 5, 5), "axis": np.array([0])}
    nodes = [
        helper.make_node("Squeeze", ["x", "axis"], ["s"]),
        node(kind, "s,k,r", hidden_size=5, direction="bidirectional"),
    ]
    assert analyse(lift(model_of(nodes, arrays)).net).total.macs == sum(
        2 * gates * 5 * (6 + 5) for _ in range(3 * 8)
    )


def test_clashes_say_where_and_which_numbers():
    kernel = {"k": floats(8, 5, 3, 3)}
    with pytest.raises(
        UnusableInput,
        match=r"operator y \(Conv\): reads 3 channels in 1 groups.*\(8, 5, 3, 3\) is for 5",
    ):
        lift(model_of([node("Conv", "x,k")], kernel))
    with pytest.raises(
        UnusableInput,
        match=r"reads 3 channels in 1 groups.*\(8, 5, 3, 3\) is for 8, with 5 filters",
    ):
        lift(model_of([node("ConvTranspose", "x,k")], kernel))
    with pytest.raises(
        UnusableInput, match=r"reads 3 channels in 3 groups.*is for 3, with 4 filters"
    ):
        lift(model_of([node("Conv", "x,k", group=3)], {"k": floats(4, 1, 3, 3)}))
    with pytest.raises(
        UnusableInput, match=r"operator y \(Conv\): reads x \(1, 3, 8, 6\), k \(8, 3, 9, 9\)"
    ):
        lift(model_of([node("Conv", "x,k")], {"k": floats(8, 3, 9, 9)}))
    vectors = {"a": floats(3), "b": floats(3), "c": floats(3), "d": floats(4)}
    with pytest.raises(
        UnusableInput,
        match=r"y \(BatchNormalization\).*x \(1, 3, 8, 6\)|d .*\(4,\)|moving_variance",
    ):
        lift(model_of([node("BatchNormalization", "x,a,b,c,d")], vectors))


@pytest.mark.parametrize("kind", ["Div", "Mul,Div"])
def test_what_is_divided_by_nothing_is_opaque(kind):
    names = ["x", *"ab"[: kind.count(",")], "y"]
    nodes = [
        node(each, f"{read},zero", made)
        for each, read, made in zip(kind.split(","), names, names[1:], strict=False)
    ]
    assert ops(lift(model_of(nodes, {"zero": np.float32(0)})))[-1] == "Opaque"


# --- constants that grow ------------------------------------------------------------------------

MANY = 38_000
GROWING = {
    "matmul": ([node("MatMul", "a,b", "huge")], {"a": floats(MANY, 1), "b": floats(1, MANY)}),
    "add": ([node("Add", "a,b", "huge")], {"a": floats(MANY, 1), "b": floats(1, MANY)}),
    "window": ([node("HannWindow", "n", "huge")], {"n": np.int64(4 * 10**8)}),
    "filled": ([node("ConstantOfShape", "n", "huge")], {"n": np.array([4 * 10**8])}),
    "range": ([node("Range", "a,n,b", "huge")], {"a": np.int64(0), "n": np.int64(4 * 10**8),
    "b": np.int64(1)}),
    "doubled": ([node("Concat", f"k{i},k{i}", f"k{i + 1}" if i < 29 else "huge",
    axis=0) for i in range(30)],
                {"k0": floats(1)}),
    "many": ([*(node("ConstantOfShape", "n", f"k{i}") for i in range(40)),
              node("Concat", ",".join(f"k{i}" for i in range(40)), "huge", axis=0)],
              {"n": np.array([2**24])}),
    "work": ([node("MatMul", "a,b", "huge")], {"a": floats(700, 700), "b": floats(700, 700)}),
    "sparse": ([helper.make_node("Constant", [], ["huge"], sparse_value=helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]), helper.make_tensor("i",
        TensorProto.INT64, [1], [0]),
        [10**10]))], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", GROWING)
def test_constants_that_grow_are_not_computed(name):
    """Their readers are Opaque, and little memory is taken."""
    nodes, tensors = GROWING[name]
    more = [node("ReduceMax", "huge", "most", keepdims=0), node("Add", "x,most")]
    model = model_of([*nodes, *more], tensors)
    tracemalloc.start()
    try:
        lifted = lift(model)
        assert tracemalloc.get_traced_memory()[1] < 2**29
    finally:
        tracemalloc.stop()
    assert ops(lifted) == ["Opaque"]
    assert lifted.net.layers[0].params <= 0


def test_weights_that_are_spread_out_do_not_grow():
    one = np.ones((1, 1, 1), np.float32)
    wide = model_of(
        [node("LayerNormalization", "x,g", axis=1)], {"g": one}, shape=(1, 3, 30_000, 30_000)
    )
    deep = model_of(
        [node("InstanceNormalization", "x,g,b")],
        {"g": one[0, 0], "b": one[0, 0]},
        shape=(1, 2**31, 1, 1),
    )
    for model in (wide, deep):
        assert ops(lift(model)) == ["Opaque"]


@pytest.mark.parametrize("last", ["Relu", "F0"])
def test_functions_that_grow_or_call_themselves_are_refused(last):
    """Thirty functions, each of which calls the next one twice."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = model_of([helper.make_node("F0", ["x"], ["y"], domain="own")])
    model.opset_import.append(imports[1])
    for i in range(30):
        kind, domain = (f"F{i + 1}", "own") if i < 29 else (last, "own" if last == "F0" else "")
        body = [helper.make_node(kind, [a], [b], domain=domain) for a, b in ("ab", "bc")]
        model.functions.append(helper.make_function("own", f"F{i}", ["a"], ["c"], body, imports))
    with pytest.raises(UnusableInput, match="calls its functions too often"):
        lift(model)


def test_text_is_not_matched():
    """A pattern that backtracks for ever."""
    words = helper.make_tensor("s", TensorProto.STRING, [1], [b"a" * 40 + b"!"])
    nodes = [
        node("RegexFullMatch", "s", "m", pattern="(a+)+$"),
        node("Cast", "m", "f", to=TensorProto.FLOAT),
    ]
    model = model_of([*nodes, node("Add", "x,f")], opset=20)
    model.graph.initializer.append(words)
    assert ops(lift(model)) == ["Opaque"]


def test_small_arithmetic_is_computed():
    """Standardised weights, as exporters leave them, and as ONNX Runtime computes them; a tangent
    is not.
    """
    nodes = [node("ReduceMean", "k", "m", axes=[1, 2, 3]), node("Sub", "k,m", "c"), node("Mul",
             "c,c", "s"), node("ReduceMean", "s", "v", axes=[1, 2, 3]), node("Sqrt", "v", "d"),
             node("Div", "c,d", "w"), node("Conv", "x,w", "y")]  # fmt: skip
    model, images = model_of(nodes, {"k": floats(4, 3, 3, 3)}), floats(2, 3, 8, 6)
    lifted = lift(model)
    assert ops(lifted) == ["Conv2D"]
    ours = onnx_format.session(onnx_format.build(lifted.net, lifted.weights)).run(
        None, {"image": images}
    )[0]
    assert np.abs(np.moveaxis(ours, 1, -1) - run(model, images)).max() < 1e-4
    assert ops(
        lift(model_of([node("Tan", "k", "w"), node("Conv", "x,w")], {"k": floats(4, 3, 3, 3)}))
    ) == ["Opaque"]


# --- operators that are none of our layers -------------------------------------------------------

SCALES = np.array([1, 1, 2, 2], np.float32)
# Nodes, tensors, and how many numbers of weights they hold.
STORED = {
    "scales": ([node("Resize", "x,,s", mode="linear",
    coordinate_transformation_mode="align_corners")],
               {"s": SCALES}, 0),
    "scalars": ([node("Pow", "x,a", "b"), node("Greater", "b,a", "m"), node("Where", "m,b,a", "c"),
                 node("Max", "c,a,z", "d"), node("Pad", "d,p,z", "y")],
                {"a": np.float32(2), "z": np.float32(0.5), "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
                0),
    "twice": ([node("MatMul", "x,m", "a"), node("MatMul", "a,m")], {"m": floats(6, 6)}, 36),
    "after a layer": ([node("MatMul", "x,m", "a"), node("Transpose", "a", "b", perm=[0, 1, 3, 2]),
                       node("MatMul", "b,n", "c"), node("MatMul", "c,n")], {"m": floats(6, 6),
                       "n": floats(8, 8)}, 100),
    "two outputs": ([node("Squeeze", "x,zero", "r"), node("LSTM", "r,w,u,b", "a,h", hidden_size=4),
                     node("ReduceMean", "a", "m", axes=[0, 1]), node("Add", "m,h")],
                    {"zero": np.array([0]), "w": floats(1, 16, 6), "u": floats(1, 16, 4),
                    "b": floats(1, 32)}, 192),
    "integers": ([node("QuantizeLinear", "x,s,z", "q"), node("QLinearConv", "q,s,z,k,s,z,s,z", "o"),
                  node("DequantizeLinear", "o,s,z", "y")],
                 {"s": np.float32(0.1), "z": np.int8(0), "k": np.ones((8, 3, 3, 3), np.int8)}, 216),
    "position": ([node("Add", "x,e")], {"e": floats(1, 3, 8, 6)}, 144),
    "masks": ([node("ConstantOfShape", "n", "a"), node("Trilu", "a", "b"), node("Add", "x,b", "c"),
    node("Add", "c,e")],
              {"n": np.array([1, 3, 8, 6]), "e": np.triu(np.full((1, 3, 8, 6), -np.inf,
              np.float32))}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", STORED)
def test_only_weights_are_parameters(name):
    nodes, tensors, stored = STORED[name]
    lifted = lift(model_of(nodes, tensors))
    assert "Opaque" in ops(lifted)
    assert analyse(lifted.net).total.params == stored


def test_casts_to_whole_numbers_are_no_layer_of_ours():
    nodes = [node("Cast", "x", "a", to=TensorProto.UINT8), node("Cast", "a", "b",
             to=TensorProto.FLOAT16), node("Cast", "b", "c", to=TensorProto.FLOAT), node("Conv",
             "c,k")]  # fmt: skip
    lifted = lift(model_of(nodes, {"k": floats(4, 3, 3, 3)}))
    assert [getattr(layer, "operator", layer.op) for layer in lifted.net.layers] == [
        "Cast",
        "Conv2D",
    ]


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
def test_quantised_weights_are_read_at_every_opset(opset):
    tensors = {"k": np.arange(-54, 54, dtype=np.int8).reshape(4, 3, 3, 3), "z": np.zeros(4,
               np.int8),
               "s": np.array([0.1, 0.2, 0.3, 0.4], np.float32)}  # fmt: skip
    model = model_of(
        [node("DequantizeLinear", "k,s,z", "w", axis=0), node("Conv", "x,w")], tensors, opset=opset
    )
    lifted = lift(model)
    assert ops(lifted) == ["Conv2D"]
    images = floats(2, 3, 8, 6)
    ours = onnx_format.session(onnx_format.build(lifted.net, lifted.weights)).run(
        None, {"image": images}
    )[0]
    assert np.abs(np.moveaxis(ours, 1, -1) - run(model, images)).max() < 1e-4


@pytest.mark.parametrize(("opset", "size"), [(18, 2), (21, 4)])
def test_group_normalisation_is_shaped_as_its_input(opset, size):
    nodes = [node("Conv", "x,k", "a"), node("GroupNormalization", "a,g,b", num_groups=2)]
    model = model_of(
        nodes, {"k": floats(4, 3, 3, 3), "g": floats(size), "b": floats(size, seed=1)}, opset=opset
    )
    lifted, images = lift(model), floats(2, 3, 8, 6)
    assert ops(lifted) == ["Conv2D", "GroupNormalization"]
    ours = onnx_format.session(onnx_format.build(lifted.net, lifted.weights)).run(
        None, {"image": images}
    )[0]
    assert np.abs(np.moveaxis(ours, 1, -1) - run(model, images)).max() < 1e-4


def test_branches_read_the_graph_around_them():
    def branch(kind):
        output = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
        return helper.make_graph([node(kind, "a", "r")], kind, [], [output])

    either = node("If", "c", "b", then_branch=branch("Relu"), else_branch=branch("Neg"))
    nodes = [
        node("Conv", "x,k", "a"),
        node("ReduceMean", "x", "m", keepdims=0),
        node("Greater", "m,z", "c"),
    ]
    nodes += [either, node("Relu", "b")]
    lifted = lift(model_of(nodes, {"k": floats(4, 3, 3, 3), "z": np.float32(0)}))
    branching = next(layer for layer in lifted.net.layers if getattr(layer, "operator", "") == "If")
    assert branching.inputs == ("c", "a")
    assert branching.params == -1
    assert branching.output_shape == (6, 4, 4)


def test_every_output_is_read():
    """The one that nothing reads on is the net's last layer."""
    model = model_of(
        [node("Conv", "x,k", "y"), node("Relu", "y", "z")], {"k": floats(4, 3, 3, 3)}, more=["z"]
    )
    lifted = lift(model)
    assert ops(lifted) == ["Conv2D", "Activation"]
    assert (lifted.net.layers[-1].name, lifted.outputs) == ("z", ("y",))
