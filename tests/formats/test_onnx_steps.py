"""Operators that stand for others, that come in any order, or that cannot be: ONNX Runtime is the
oracle.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from convwise.core.calculus import analyse
from convwise.core.problems import ConvwiseError, ShapeError, UnusableInput
from convwise.formats import onnx as onnx_format
from convwise.formats.onnx.lift import lift, read
from convwise.inspect.checking import checked
from onnx_graphs import floats, model_of, node, ops, run

IMAGES = floats(2, 3, 8, 6)
FLAG = {"yes": np.array(True), "no": np.array(False)}


def branch(nodes, output, tensors=None):
    initialisers = [numpy_helper.from_array(array, name) for name, array in (tensors or {}).items()]
    return helper.make_graph(nodes, "branch", [], [onnx.ValueInfoProto(name=output)], initialisers)


def same_answers(model, images=IMAGES):
    """Ours, written again, and the model's own."""
    found = lift(model)
    ours = onnx_format.build(found.net, found.weights)
    np.testing.assert_allclose(onnx_format.forward(onnx_format.session(ours), images.transpose(0, 2,
                               3, 1)), run(model, images), rtol=1e-4, atol=1e-5)  # fmt: skip
    return found


# --- branches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", FLAG)
def test_the_branch_of_a_known_condition_is_read(flag):
    """Both have a tensor and a weight of the same name, and so has the next If."""
    one, two = (
        [branch([node("Conv", f"{read},k", "t", pads=[1] * 4), node(kind, "t", "u")], "u",
        {"k": floats(n, n, 3, 3)})
         for kind in ("Relu", "Sigmoid")]
        for read, n in (("x", 3), ("m", 3))
    )  # fmt: skip
    model = model_of(
        [helper.make_node("If", [flag], ["m"], then_branch=one[0], else_branch=one[1]),
         helper.make_node("If", ["no"], ["y"], then_branch=two[0], else_branch=two[1])], FLAG,
    )  # fmt: skip
    found = same_answers(model)
    assert [layer.activation for layer in found.net.layers if layer.op == "Activation"] == (
        ["relu", "sigmoid"] if flag == "yes" else ["sigmoid", "sigmoid"])  # fmt: skip
    assert analyse(found.net).total.params == 2 * 81


def test_a_condition_may_hang_on_a_shape_and_a_branch_on_another():
    """As TorchScript writes squeeze; inside it, an If whose condition is not known stays one."""
    squeezed = branch([node("Squeeze", "p,axes", "s")], "s")
    whole = branch([node("Identity", "p", "s")], "s")
    nodes = [node("Conv", "x,k", "c"), node("GlobalAveragePool", "c", "p"), node("Shape", "p", "n"),
             node("Gather", "n,two", "d"), node("Equal", "d,one", "q"), helper.make_node("If",
             ["q"], ["y"], then_branch=squeezed, else_branch=whole)]  # fmt: skip
    tensors = {
        "k": floats(4, 3, 3, 3),
        "two": np.array(2),
        "one": np.array(1),
        "axes": np.array([2, 3]),
    }
    found = same_answers(model_of(nodes, tensors))
    assert (ops(found), found.net.layers[-1].keepdims) == (
        ["Conv2D", "GlobalAveragePooling2D"],
        False,
    )

    inner = helper.make_node("If", ["open"], ["u"], then_branch=branch([node("Relu", "c", "t")],
                             "t"), else_branch=branch([node("Tanh", "c", "t")], "t"))  # fmt: skip
    outer = branch([node("Conv", "x,k", "c"), inner], "u")
    outer.output[0].CopyFrom(helper.make_tensor_value_info("u", TensorProto.FLOAT, (1, 4, 6, 4)))
    nodes = [node("ReduceMax", "x", "most", keepdims=0), node("Greater", "most,zero", "open"),
             helper.make_node("If", ["yes"], ["y"], then_branch=outer,
             else_branch=outer)]  # fmt: skip
    found = checked(
        lift(
            model_of(nodes, {**FLAG, "zero": np.float32(0), "k": floats(4, 3, 3, 3)}, (1, 3, 8, 6))
        )
    )
    assert ops(found.lifted)[-2:] == ["Conv2D", "Opaque"]
    assert found.analysis.total.unknown == ("y_u",)


def test_an_if_without_its_branch_is_refused():
    lame = helper.make_node("If", ["no"], ["y"], then_branch=branch([node("Relu", "x", "t")], "t"))
    with pytest.raises(
        UnusableInput, match=r"operator y \(If\): has no else_branch that gives its 1 outputs"
    ):
        lift(model_of([lame], FLAG))


# --- order --------------------------------------------------------------------------------------


def test_operators_may_come_in_any_order():
    nodes = [
        node("Relu", "b"),
        node("Add", "a,c", "b"),
        node("Conv", "x,k", "a"),
        node("Sigmoid", "a", "c"),
    ]
    found = same_answers(model_of(nodes, {"k": floats(4, 3, 3, 3)}))
    assert ops(found) == ["Conv2D", "Activation", "Add", "Activation"]


@pytest.mark.parametrize("nodes", [[node("Add", "x,y")], [node("Add", "x,b", "a"), node("Relu", "a",
                                                         "b"), node("Relu", "b")]])  # fmt: skip
def test_operators_in_a_circle_are_refused(nodes):
    with pytest.raises(
        UnusableInput, match=r"has an operator \w \(Add\) that reads what comes of it"
    ):
        lift(model_of(nodes))


# --- fused operators ----------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_what_onnx_runtime_has_fused_is_taken_apart(level, tmp_path):
    nodes = [node("Conv", "x,k", "c"), node("Add", "c,b", "d"), node("Relu", "d", "e"), node("Conv",
             "e,l", "f"), node("Sigmoid", "f", "g"), node("Mul", "f,g", "h"), node("Gelu", "h",
             "i"), node("GlobalAveragePool", "i", "j"), node("Flatten", "j", "m"), node("Gemm",
             "m,w,v", "n", transB=1), node("LeakyRelu", "n", alpha=0.2)]  # fmt: skip
    tensors = {"k": floats(4, 3, 3, 3), "b": floats(1, 4, 1, 1), "l": floats(5, 4, 1, 1),
               "w": floats(7, 5),
               "v": floats(7)}  # fmt: skip
    model = model_of(nodes, tensors, (2, 3, 8, 6), opset=20)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 7)))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}"
    )
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    fused = {each.op_type for each in onnx.load(tmp_path / "fused.onnx").graph.node if each.domain}
    assert bool(fused) == (level == "EXTENDED")
    found = read(tmp_path / "fused.onnx")
    assert [layer.op for layer in found.net.layers] == ops(lift(model))
    assert analyse(found.net).total == analyse(lift(model).net).total
    ours = onnx_format.session(onnx_format.build(found.net, found.weights))
    np.testing.assert_allclose(
        onnx_format.forward(ours, IMAGES.transpose(0, 2, 3, 1)), run(model, IMAGES), atol=1e-5
    )


def test_what_onnx_runtime_has_laid_out_for_a_processor_is_refused():
    model = model_of(
        [helper.make_node("Conv", ["x", "k"], ["y"], domain="com.microsoft.nchwc")],
        {"k": floats(8, 3, 3, 3)},
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    with pytest.raises(
        UnusableInput, match=r"for one kind of processor.*Fix: give the model as it was before"
    ):
        lift(model)


def test_nothing_beside_something_is_nothing():
    """As torch.roll by no place is written."""
    nodes = [
        node("Conv", "x,k", "c"),
        node("Slice", "c,from,from,rows", "none"),
        node("Concat", "none,c", axis=2),
    ]
    tensors = {"k": floats(4, 3, 3, 3), "from": np.array([5]), "rows": np.array([2])}
    assert ops(same_answers(model_of(nodes, tensors))) == ["Conv2D"]


# --- what cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "tensors", "said"),
    [
        ([node("Conv", "x")], {}, r"y \(Conv\): lacks its input W"),
        ([node("Conv", "x,")], {}, r"y \(Conv\): lacks its input W"),
        ([helper.make_node("Relu", ["x"], []), node("Tanh", "x")], {},
        r"Relu \(Relu\): lacks outputs"),
        ([helper.make_node("Relu", ["x"], [""]), node("Tanh", "x")], {},
        r"Relu \(Relu\): lacks outputs"),
        ([node("Split", "x", "y,y", axis=1)], {}, "produces 'y' a second time"),
        ([node("Conv", "x,k")], {"k": floats(0, 3, 3, 3)},
        r"y \(Conv\): makes a layer whose Conv2D.filters is 0"),
        ([node("BatchNormalization", "x,g,g,g,g", epsilon=float("nan"))], {"g": floats(3)},
         r"y \(BatchNormalization\): .*epsilon is nan"),
        ([node("Reshape", "x,s")], {"s": np.array([1, 5, 7])},
        r"\(1, 3, 8, 6\).* gives \(1, 5, 7\), .*not as many"),
        ([node("SequenceConstruct", "x,x", "s"), node("ConcatFromSequence", "s", axis=1)], {},
         r"s \(SequenceConstruct\): gives 's', a list of tensors.*Fix: .*onnxsim"),
    ],
)  # fmt: skip
def test_the_operator_is_named_that_cannot_be(nodes, tensors, said):
    """Onnx Runtime refuses all but the layer without filters, the number that is none, and the
    list.
    """
    with pytest.raises(ConvwiseError, match=said):
        lift(model_of(nodes, tensors, (1, 3, 8, 6)))


def test_weights_are_there_once_and_have_sides():
    model = model_of([node("Conv", "x,k")], {"k": floats(4, 3, 3, 3)})
    model.graph.initializer.append(numpy_helper.from_array(floats(5, 3, 3, 3), "k"))
    with pytest.raises(UnusableInput, match="weight k: is there twice, in two shapes"):
        lift(model)
    del model.graph.initializer[1:]
    model.graph.initializer[0].dims[0] = -4
    with pytest.raises(
        UnusableInput, match=r"weight k: cannot be read: its shape is \(-4, 3, 3, 3\)"
    ):
        lift(model)


def test_an_input_that_nothing_reads_is_none():
    model = model_of([node("Conv", "x,k")], {"k": floats(4, 3, 3, 3)})
    model.graph.input.append(helper.make_tensor_value_info("size", TensorProto.INT64, (1, 2)))
    assert ops(lift(model)) == ["Conv2D"]
    model.graph.input[0].CopyFrom(
        helper.make_value_info(
            "x", helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, (1, 3, 8, 6)))
        )
    )
    with pytest.raises(UnusableInput, match=r"has the inputs x \(not a tensor\)"):
        lift(model)


@pytest.mark.parametrize(
    ("shape", "fix"),
    [(("n", 3, "h", "w"), "another --input-shape"), ((1, 3, 9, 6), "export it again")],
)
def test_another_size_is_proposed_where_there_is_one(shape, fix):
    nodes = [
        node("Conv", "x,k", "a", strides=[2, 2]),
        node("Resize", "a,,twice", "b"),
        node("Add", "x,b"),
    ]
    tensors = {"k": floats(3, 3, 1, 1), "twice": np.array([1, 1, 2, 2], np.float32)}
    with pytest.raises(ShapeError, match=f"Fix: {fix}"):
        lift(model_of(nodes, tensors, shape), (9, 6, 3))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"input_shape": [8, 6, 3], "layers": ["a"]}', "no JSON", '{"net": []}']
)
def test_others_may_keep_anything_in_their_metadata(text):
    model = model_of([node("Conv", "x,k")], {"k": floats(4, 3, 3, 3)})
    helper.set_model_props(model, {"net": text, "classes": text})
    assert (ops(lift(model)), lift(model).classes) == (["Conv2D"], ())


# --- memory -------------------------------------------------------------------------------------


def peak(act) -> int:
    tracemalloc.start()
    try:
        return act() or tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("alike", [True, False])
def test_a_weight_that_many_layers_read_is_not_held_for_each_of_them(alike):
    """700 layers of 90,000 numbers that the file holds once: 250 MB, were they turned for each, or
    all scaled.
    """
    count, kernel = 700, floats(300, 300, *([1, 1] if alike else []))
    names = (
        ["x", *map(str, range(count - 1)), "y"]
        if alike
        else ["row", *map(str, range(count - 1)), "y"]
    )
    nodes = [node("Conv", f"{a},k", b) if alike else node("Gemm", f"{a},k", b, alpha=1 + i / count)
             for i, (a, b) in enumerate(zip(names, names[1:], strict=False))]  # fmt: skip
    nodes = nodes if alike else [node("Flatten", "x", "row"), *nodes]
    found = []
    most = peak(lambda: found.append(lift(model_of(nodes, {"k": kernel}, (1, 300, 1, 1)))))
    assert most < (10_000_000 if alike else 160_000_000)
    checked_ = checked(found[0])
    assert (checked_.analysis.total.macs, bool(found[0].weights)) == (count * kernel.size, alike)
    assert ("so many layers" in str(checked_.problems)) is not alike
    assert checked_.analysis.total.params == kernel.size


def test_a_file_of_weights_is_not_read_again_and_again(tmp_path):
    """400 kernels of 1 MB at one place of a file."""
    names = ["x", *map(str, range(399)), "y"]
    model = model_of(
        [node("Conv", f"{a},k{a}", b) for a, b in zip(names, names[1:], strict=False)],
        shape=(1, 512, 2, 2),
    )
    for name in names[:-1]:
        tensor = model.graph.initializer.add(
            name=f"k{name}", dims=(512, 512, 1, 1), data_type=TensorProto.FLOAT
        )
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "w.bin", "offset": "0", "length": str(2**20)}.items():
            tensor.external_data.add(key=key, value=value)
    (tmp_path / "w.bin").write_bytes(bytes(2**20))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        UnusableInput, match=r"names 419,430,400 bytes of weights in files of 1,048,576"
    ):
        read(tmp_path / "net.onnx")


def test_a_map_that_is_resized_beyond_all_sizes_takes_no_memory():
    tensors = {"k": floats(4, 3, 3, 3), "large": np.array([1, 1, 1e9, 1e9], np.float32)}
    found = checked(lift(model_of([node("Conv", "x,k", "c"), node("Resize", "c,,large")], tensors)))
    assert found.analysis.layers[-1].output_shape == (6 * 10**9, 4 * 10**9, 4)


def test_a_thousand_constants_in_a_row_are_one():
    values = ["x", *map(str, range(1199)), "y"]
    nodes = [node("Add", f"{a},k", b) for a, b in zip(values, values[1:], strict=False)]
    (layer,) = lift(model_of(nodes, {"k": np.float32(0.5)})).net.layers
    assert (layer.scale, layer.offset) == ((1.0,), (600.0,))


# --- newer operators ----------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_of_opset_23_is_counted(causal):
    """12 places of 8 numbers, 2 heads: queries with keys, then with values."""
    nodes = [node("Conv", "x,k", "c", strides=[2, 2]), node("Reshape", "c,s", "r"),
             node("Transpose", "r", "t", perm=[0, 2, 1]), node("Attention", "t,t,t", "y",
             q_num_heads=2, kv_num_heads=2, is_causal=causal)]  # fmt: skip
    tensors = {"k": floats(8, 3, 2, 2), "s": np.array([1, 8, 12])}
    found = checked(lift(model_of(nodes, tensors, (1, 3, 8, 6), opset=23))).analysis
    assert (found.total.macs - found.layers[0].macs, found.total.unknown) == (2 * 12 * 12 * 8, ())
    assert (found.layers[-1].output_shape, found.layers[-1].field.known) == ((12, 8), not causal)


@pytest.mark.parametrize("opset", [26, 28])
def test_newer_opsets_are_read(opset):
    model = model_of(
        [node("Conv", "x,k", "c"), node("Relu", "c")], {"k": floats(4, 3, 3, 3)}, opset=opset
    )
    assert ops(lift(model)) == ["Conv2D", "Activation"]
