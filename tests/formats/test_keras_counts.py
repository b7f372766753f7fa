"""What is counted in Keras models: every output, work that is none of our layers, and sizes that do
not fit.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convwise.core.problems import ShapeError, UnusableInput
from convwise.formats import keras as keras_format
from convwise.formats.keras.lift import lift, read
from convwise.inspect.checking import checked, to_json

keras = keras_format.keras  # on PyTorch, also where this file is run alone
K, ops = keras.layers, keras.ops


def conv(x, filters=4, size=3, name=None):
    return K.Conv2D(filters, size, padding="same", activation="relu", name=name)(x)


def test_every_output_is_counted():
    image = keras.Input((8, 8, 3))
    stem = conv(image)
    model = keras.Model(
        image,
        {"mask": conv(stem, 1, 1, "mask"), "label": K.Dense(5, name="label")(K.Flatten()(stem))},
    )
    answer = to_json(checked(lift(model)))
    assert answer["outputs"] == ["label", "mask"]  # as Keras orders the keys of a dict
    assert answer["total"]["params"] == model.count_params()
    assert answer["total"]["macs"] == 64 * 4 * 27 + 64 * 4 + 256 * 5
    assert answer["layers"][-1]["name"] == "label"
    assert answer["total"]["receptive_field"]["size"] == [3, 3]


def test_an_output_that_others_read_is_passed_on():
    image = keras.Input((8, 8, 3))
    stem = conv(image, name="stem")
    inner = lift(keras.Model(image, [stem, conv(stem, name="head")]))
    assert (inner.net.layers[-1].name, inner.outputs) == ("head", ("stem",))
    same = lift(keras.Model(image, [stem, stem]))
    assert (same.net.layers[-1].name, same.outputs) == ("stem", ())


SEEN = {
    "half of the channels": (lambda x: x[..., :2], (8, 8, 2), True),
    "the first channels": (lambda x: x[:, :, :, :2], (8, 8, 2), True),
    "every second row": (lambda x: x[:, ::2, :, :], (4, 8, 4), False),
    "parts of the channels": (
        lambda x: ops.concatenate(ops.split(x, 2, axis=-1), axis=-1),
        (8, 8, 4),
        True,
    ),
    "mean of the channels": (lambda x: ops.mean(x, axis=-1, keepdims=True), (8, 8, 1), True),
    "largest of the channels": (lambda x: ops.max(x, axis=-1, keepdims=True), (8, 8, 1), True),
    "power": (lambda x: ops.power(x, 3.0), (8, 8, 4), True),
    "rolled": (lambda x: ops.roll(x, 2, axis=1), (8, 8, 4), False),
    "rows and columns exchanged": (lambda x: K.Permute((2, 1, 3))(x), (8, 8, 4), False),
    "resized": (lambda x: K.Resizing(12, 12)(x), (12, 12, 4), True),
}


@pytest.mark.parametrize("name", SEEN)
def test_moves_cost_nothing_unknown(name):
    make, shape, seen = SEEN[name]
    image = keras.Input((8, 8, 3))
    found = checked(lift(keras.Model(image, make(conv(image))))).analysis
    assert found.layers[-1].output_shape == shape
    assert found.total.macs == 64 * 4 * 27
    assert not found.total.unknown
    assert found.layers[-1].field.known is seen


def test_products_of_two_maps_are_counted():
    image = keras.Input((8, 6, 3))
    tokens = K.Reshape((48, 3))(image)
    found = checked(
        lift(keras.Model(image, ops.matmul(tokens, ops.transpose(tokens, (0, 2, 1)))))
    ).analysis
    assert (found.total.macs, found.total.unknown) == (48 * 48 * 3, ())
    dense = K.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de")
    found = checked(lift(keras.Model(image, dense(tokens)))).analysis
    assert (found.total.macs, found.total.params) == (48 * 3 * 2 * 5, dense.count_params())


def test_attention_is_counted_as_pytorch_counts_its_products():
    """48 places ask 12, with 4 heads of 5 numbers, and of 3 for the values."""
    image = keras.Input((8, 6, 16))
    tokens = K.Reshape((48, 16))(image)
    attention = K.MultiHeadAttention(4, 5, value_dim=3)
    model = keras.Model(image, attention(tokens, K.AveragePooling1D(4)(tokens)))
    with FlopCounterMode(display=False) as counter:
        asking, held = torch.zeros(48, 16), torch.zeros(12, 16)
        query, key, value = (
            asking @ torch.zeros(16, 20),
            held @ torch.zeros(16, 20),
            held @ torch.zeros(16, 12),
        )
        heads = [each.reshape(len(each), 4, -1).transpose(0, 1) for each in (query, key, value)]
        seen = heads[0] @ heads[1].transpose(1, 2) @ heads[2]
        assert (seen.transpose(0, 1).reshape(48, 12) @ torch.zeros(12, 16)).shape == (48, 16)
    found = checked(lift(model)).analysis
    assert found.total.params == model.count_params()
    assert 2 * found.total.macs == counter.get_total_flops()
    assert not found.layers[-1].field.known


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        ((6, 5), lambda: K.LSTM(4)),
        ((6, 5), lambda: K.GRU(4, return_sequences=True)),
        ((30, 1), lambda: K.Conv1D(4, 3, strides=2)),
        ((3, 5, 2), lambda: K.Conv3D(4, (2, 3, 1), padding="same")),
    ],
)
def test_recurrent_layers_and_other_convolutions_cost_what_pytorch_counts(shape, make):
    image = keras.Input((5, 6, 1))
    rows = K.Reshape((*shape, 1) if len(shape) == 3 else shape)(image)
    model = keras.Model(image, make()(rows))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 5, 6, 1))
    total = checked(lift(model)).analysis.total
    assert not total.unknown
    assert (total.macs, total.params) == (counter.get_total_flops() // 2, model.count_params())


def free(join) -> keras.Model:
    """A U-Net of any size that is even."""
    image = keras.Input((None, None, 3))
    top = conv(image)
    return keras.Model(image, conv(join([K.UpSampling2D()(conv(K.MaxPooling2D()(top))), top])))


@pytest.mark.parametrize("join", [K.Concatenate(name="join"), K.Add(name="join")])
def test_maps_that_do_not_meet_are_named_with_their_sizes(join):
    model = free(join)
    assert checked(lift(model, (16, 16, 3))).analysis.layers[-1].output_shape == (16, 16, 4)
    with pytest.raises(Exception, match="."):
        model(np.zeros((1, 17, 17, 3), np.float32))
    with pytest.raises(ShapeError, match=r"layer join: .*\(16, 16, 4\).*\(17, 17, 4\)"):
        lift(model, (17, 17, 3))


def test_kernels_that_do_not_fit_are_named_with_the_map():
    image = keras.Input((None, None, 3))
    model = keras.Model(
        image, K.Conv2D(4, 3, name="last")(K.MaxPooling2D(4)(K.Conv2D(4, 7)(image)))
    )
    with pytest.raises(ShapeError, match="layer last: needs 3x3 inputs, but its map is 1x1"):
        lift(model, (12, 12, 3))
    with pytest.raises(UnusableInput, match="--input-shape 3x32x3"):
        lift(model, (3, 32, 32))


# --- layers that work as others do -------------------------------------------------------------


def torch_macs(model) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, *model.input_shape[1:]))
    return counter.get_total_flops() // 2


def chain(*layers) -> keras.Model:
    return keras.Sequential([keras.Input((8, 6, 3)), *layers])


def quantised(mode: str, adapters: bool = False) -> keras.Model:
    model = chain(K.Conv2D(4, 3), K.Flatten(), K.Dense(5))
    model.quantize(mode)
    if adapters:
        model.layers[-1].enable_lora(2)
    return model


WORKING = {
    "spectral convolution": (lambda: chain(K.SpectralNormalization(K.Conv2D(4, (3, 1), strides=2))),
    (3, 1)),
    "spectral dense": (lambda: chain(K.Flatten(), K.SpectralNormalization(K.Dense(4))), (8, 6)),
    "dense at each step": (lambda: chain(K.Conv2D(4, 3), K.TimeDistributed(K.Dense(5))), (3, 3)),
    "convolution at each step": (lambda: chain(K.TimeDistributed(K.Conv1D(5, 3))), None),
    "int8": (lambda: quantised("int8"), (3, 3)),
    "int4": (lambda: quantised("int4"), (3, 3)),
    "int8 and adapters": (lambda: quantised("int8", adapters=True), (3, 3)),
    "pools": (lambda: functional(lambda x: ops.max_pool(ops.average_pool(conv(x), 2,
    padding="same"), 2)), (6, 6)),
    "attention": (lambda: functional(lambda x: K.Attention()([K.Reshape((48, 3))(x), K.Reshape((48,
    3))(x)])), None),
    "over rows and columns": (lambda: functional(lambda x: K.MultiHeadAttention(2, 4)(x, x)), None),
    "masked": (lambda: chain(conv_(), K.Masking(0.5)), (3, 3)),
    "dot": (lambda: functional(lambda x: K.Dot(axes=1)([K.Flatten()(x), K.Flatten()(conv(x, 3))])),
    None),
    "einsum": (lambda: functional(lambda x: ops.einsum("bhwc,bhwd->bcd", conv(x), conv(x, 5))),
    None),
    "rows of one dimension": (lambda: chain(K.Reshape((48, 3)), K.SeparableConv1D(4, 3),
    K.DepthwiseConv1D(3),
                                            K.MaxPooling1D(2), K.Conv1DTranspose(5, 2, strides=2)),
                                            None),
    "volumes": (lambda: chain(K.Reshape((8, 6, 3, 1)), K.Conv3DTranspose(4, 2),
    K.AveragePooling3D(2),
                              K.GlobalMaxPooling3D()), None),
    "all of the numbers dropped": (lambda: chain(conv_(), K.Dropout(1.0), K.SpatialDropout2D(1.0)),
    (3, 3)),
    "statistics that are not kept": (lambda: chain(conv_(), K.BatchNormalization(epsilon=3.0,
    momentum=1.0)), (3, 3)),
    "a number for each place": (lambda: chain(K.Rescaling(np.full((8, 6, 3), 0.1)), conv_()), (3,
    3)),
}  # fmt: skip


def conv_():
    return K.Conv2D(4, 3, padding="same")


def functional(make) -> keras.Model:
    image = keras.Input((8, 6, 3))
    return keras.Model(image, make(image))


@pytest.mark.filterwarnings("ignore:Layer [A-Za-z0-9]+ does not have a `quantize` method")
@pytest.mark.parametrize("name", WORKING)
def test_what_works_as_other_layers_is_counted_as_pytorch_counts(name):
    make, seen = WORKING[name]
    model = make()
    answer = to_json(checked(lift(model)))
    assert answer["total"]["params"] == model.count_params()
    assert answer["total"]["trainable"] == sum(
        int(np.prod(each.shape)) for each in model.trainable_variables
    )
    assert (answer["total"]["macs"], answer["total"]["unknown"]) == (torch_macs(model), [])
    if seen:
        assert answer["total"]["receptive_field"]["size"] == list(seen)


@pytest.mark.parametrize(
    "cell", [lambda: K.ConvLSTM2D(4, (3, 2)), lambda: K.ConvLSTM2D(4, 3, padding="same", strides=2)]
)
def test_each_step_of_maps_costs_what_pytorch_counts(cell):
    """Keras runs one step more, to see what it gives."""
    cut = {2: (2, 4, 6, 3), 4: (4, 4, 6, 3)}
    models = {steps: keras.Sequential([keras.Input((2 * steps, 12, 3)), K.Reshape(shape), cell()])
              for steps, shape in cut.items()}  # fmt: skip
    ours = {steps: checked(lift(model)).analysis.total for steps, model in models.items()}
    assert ours[4].macs == 2 * ours[2].macs
    assert ours[4].macs - ours[2].macs == torch_macs(models[4]) - torch_macs(models[2])
    assert ours[2].params == models[2].count_params()


def test_adapters_of_a_kernel_cost_nothing_for_an_image():
    """Keras adds their product to the kernel, and works with that."""
    plain, model = (chain(K.Conv2D(4, 3), K.Flatten(), K.Dense(5)) for _ in range(2))
    model.layers[0].enable_lora(2)
    model.layers[-1].enable_lora(3)
    found = checked(lift(model)).analysis.total
    assert (found.macs, found.params, found.unknown) == (
        torch_macs(plain),
        model.count_params(),
        (),
    )
    assert found.field.size == (3, 3)


CUTS = {
    "rows and columns": lambda x: conv(x[:, 1:-1, 2:, :]),
    "behind an ellipsis": lambda x: conv(x[..., 1:, :]),
    "channels": lambda x: conv(x[..., :2]),
    "two halves": lambda x: K.Concatenate()([conv(x)[:, :4], conv(x)[:, 4:]]),
    "one place": lambda x: K.Dense(4)(x[:, 5, 2, :]),
    "every second row": lambda x: conv(x[:, ::2]),
    "an axis more": lambda x: ops.squeeze(x[:, None], 1),
}


@pytest.mark.parametrize("name", CUTS)
def test_cuts_are_the_same_in_a_file(name, tmp_path):
    """Where Keras keeps a slice as a list."""
    model = functional(CUTS[name])
    model.save(tmp_path / "cut.keras")
    live, stored = (to_json(checked(each)) for each in (lift(model), read(tmp_path / "cut.keras")))
    assert (stored["total"], stored["layers"]) == (live["total"], live["layers"])
    assert live["layers"][-1]["output_shape"] == list(model.output_shape[1:])
    known = live["total"]["receptive_field"] is not None
    assert known == (name not in ("one place", "every second row", "an axis more"))


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_what_holds_nothing_says_so(tmp_path):
    for empty in (keras.Sequential(), keras.Sequential([keras.Input((8, 6, 3))])):
        empty.save(tmp_path / "empty.keras")
        for act in (lambda model=empty: lift(model), lambda: read(tmp_path / "empty.keras")):
            with pytest.raises(UnusableInput, match="holds no layer"):
                act()
    with pytest.raises(
        ShapeError, match=r"layer get_item\w*: gives a tensor of \(8, 6, 0\): no numbers.*[^.]$"
    ):
        lift(functional(lambda x: K.Concatenate()([conv(x), x[..., :0]])))
