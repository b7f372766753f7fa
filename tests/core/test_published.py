"""Published numbers: fields of Araujo, Norris & Sim (Distill 2019), params and macs of model cards.

The nets are TF-slim's where the table is theirs. Its inputs are of 224 px, and they have to be:
before a stride of 2, 'same' pads a 3x3 window of an even map by (0, 1) and of an odd one by (1, 1),
so at 225 px the effective padding is another one. Params of torchvision's and Keras's cards are
without the moving statistics of batch normalisation, so they are `trainable` here, unless the test
says otherwise.
"""

from __future__ import annotations

import pytest

from convwise.core import layers as L
from convwise.core.calculus import analyse
from convwise.core.field import Field
from convwise.core.net import Net
from convwise.core.parameters import Pads


def alexnet_v2() -> Net:
    conv, pool = L.Conv2D, L.MaxPooling2D
    return Net((224, 224, 3), (
        conv(64, 11, 4, name="conv1"), pool(3, 2, name="pool1"),
        conv(192, 5, padding="same", name="conv2"), pool(3, 2, name="pool2"),
        conv(384, 3, padding="same", name="conv3"), conv(384, 3, padding="same", name="conv4"),
        conv(256, 3, padding="same", name="conv5"), pool(3, 2, name="pool5")))  # fmt: skip


def vgg_16() -> Net:
    layers: list[L.Layer] = []
    for number, (convs, filters) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        layers += [L.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(convs)]
        layers += [L.MaxPooling2D(2, name=f"pool{number}")]
    head = (
        L.Flatten(),
        L.Dense(4096, activation="relu"),
        L.Dense(4096, activation="relu"),
        L.Dense(1000),
    )
    return Net((224, 224, 3), (*layers, *head))


def resnet(units: tuple[int, ...], *, bottleneck: bool, last: bool, pool: str | Pads) -> Net:
    """ResNets for 224 px. last: the stride is in the last unit of a stage (TF-slim), not its first
    (torchvision).
    """
    one = (1, 1, 1, 1)
    layers: list[L.Layer] = [L.Conv2D(64, 7, 2, (3, 3, 3, 3), use_bias=False),
                             L.BatchNormalization(), L.Activation("relu"), L.MaxPooling2D(3, 2,
                             pool, name="stem")]  # fmt: skip
    before, given = "stem", 64
    for stage, count in enumerate(units):
        width = 64 * 2**stage
        output = 4 * width if bottleneck else width
        for unit in range(count):
            halves = (unit == count - 1 and stage < 3) if last else (unit == 0 and stage > 0)
            stride, name = 1 + halves, f"s{stage}u{unit}"
            deep = ((1, 1, width), (3, stride, width), (1, 1, output))
            plan = deep if bottleneck else ((3, stride, width), (3, 1, width))
            layers += _unit(name, before, plan, one)
            shortcut = before
            if given != output or stride > 1:
                layers += [L.Conv2D(output, 1, stride, use_bias=False, name=f"{name}_skip",
                           inputs=(before,)),
                           L.BatchNormalization(name=f"{name}_skip_bn")]  # fmt: skip
                shortcut = f"{name}_skip_bn"
            layers += [L.Add(inputs=(f"{name}_bn", shortcut)), L.Activation("relu", name=name)]
            before, given = name, output
    return Net((224, 224, 3), (*layers, L.GlobalAveragePooling2D(), L.Dense(1000)))


def _unit(
    name: str, before: str, plan: tuple[tuple[int, int, int], ...], one: Pads
) -> list[L.Layer]:
    layers: list[L.Layer] = []
    for i, (kernel, stride, filters) in enumerate(plan):
        padding = one if kernel == 3 else "valid"
        inputs = () if i else (before,)
        layers += [L.Conv2D(filters, kernel, stride, padding, use_bias=False, inputs=inputs)]
        final = i == len(plan) - 1
        layers += [L.BatchNormalization(name=f"{name}_bn" if final else "")]
        layers += [] if final else [L.Activation("relu")]
    return layers


def mobilenet_v1(size: int = 224) -> Net:
    """TF-slim's and Keras's; everything 'same'."""
    plan = (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    )
    done = (L.BatchNormalization(), L.Activation("relu6"))
    layers: list[L.Layer] = [L.Conv2D(32, 3, 2, "same", use_bias=False), *done]
    for filters, stride in plan:
        layers += [L.DepthwiseConv2D(3, stride, "same", use_bias=False), *done]
        layers += [L.Conv2D(filters, 1, use_bias=False), *done]
    return Net(
        (size, size, 3), (*layers, L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(1000, 1))
    )


def inception_v2(size: int = 224) -> Net:
    """TF-slim's, with its separable first convolution; one filter count serves all, for fields do
    not know it.
    """
    layers: list[L.Layer] = [L.SeparableConv2D(8, 7, 2, "same", 8), L.MaxPooling2D(3, 2, "same"),
                             L.Conv2D(8, 1), L.Conv2D(8, 3, padding="same"), L.MaxPooling2D(3, 2,
                             "same")]  # fmt: skip
    last = "maxpooling2d_1"
    for name in ("3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "5c"):
        layers += _mixed(
            f"m{name}",
            last,
            halves=name.endswith("a"),
            pool=L.MaxPooling2D if name == "5c" else None,
        )
        last = f"m{name}"
    return Net((size, size, 3), tuple(layers))


def _mixed(
    name: str, start: str, *, halves: bool, pool: type[L.MaxPooling2D] | None
) -> list[L.Layer]:
    """1x1, 3x3, two of 3x3, and a pool; where it halves the map no 1x1, and the pool as it is."""
    conv, stride = L.Conv2D, 1 + halves
    kind = pool or (L.MaxPooling2D if halves else L.AveragePooling2D)
    single = [conv(8, 1, inputs=(start,)), conv(8, 3, stride, "same", name=f"{name}_1")]
    double = [
        conv(8, 1, inputs=(start,)),
        conv(8, 3, 1, "same"),
        conv(8, 3, stride, "same", name=f"{name}_2"),
    ]
    pooled = [kind(3, stride, "same", inputs=(start,), name=f"{name}_pool")]
    ends = [f"{name}_1", f"{name}_2", f"{name}_pool"]
    if not halves:
        pooled += [conv(8, 1, name=f"{name}_3"), conv(8, 1, inputs=(start,), name=f"{name}_0")]
        ends = [f"{name}_{i}" for i in range(4)]
    return [*single, *double, *pooled, L.Concatenate(inputs=tuple(ends), name=name)]


def slim_resnet(units: tuple[int, ...]) -> Net:
    return resnet(units, bottleneck=True, last=True, pool="same")


def facts(field: Field) -> tuple[int, float, int]:
    assert field.rows == field.columns
    return field.rows.size, field.rows.stride, field.rows.padding


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (alexnet_v2(), (195, 32, 64)),
        (vgg_16(), (212, 32, 90)),
        (mobilenet_v1(), (315, 32, 126)),
        (slim_resnet((3, 4, 6, 3)), (483, 32, 239)),
        (inception_v2(), (699, 32, 318)),
        (slim_resnet((3, 4, 23, 3)), (1027, 32, 511)),
    ],
    ids=["alexnet_v2", "vgg_16", "mobilenet_v1", "resnet_v1_50", "inception_v2", "resnet_v1_101"],
)
def test_fields_as_published(net, expected):
    """Size, stride, effective padding; and every one of these nets is aligned."""
    field = next(row.field for row in reversed(analyse(net).layers) if row.field.rows.step)
    assert facts(field) == expected
    assert field.aligned


def test_the_padding_of_same_depends_on_the_size():
    """225, 113, 57, 29, 15 are odd: each stride of 2 pads one more of its own px before, 1 + 2 + 4
    + 8 + 16.
    """
    assert facts(analyse(mobilenet_v1(225)).total.field) == (315, 32, 126 + 31)


def test_alexnet_as_published():
    analysis = analyse(alexnet_v2())
    published = {
        "conv1": 11,
        "pool1": 19,
        "conv2": 51,
        "conv3": 99,
        "conv4": 131,
        "conv5": 163,
        "pool5": 195,
    }
    assert {name: analysis[name].field.rows.size for name in published} == published


def test_vgg_as_published():
    analysis = analyse(vgg_16())
    pools = [facts(analysis[f"pool{i}"].field) for i in range(1, 6)]
    assert pools == [(6, 2, 2), (16, 4, 6), (44, 8, 18), (100, 16, 42), (212, 32, 90)]
    assert analysis.total.params == 138_357_544  # keras.applications.VGG16, torchvision vgg16
    assert analysis.total.macs == 15_470_264_320  # fvcore, ptflops: 15.47 GMac without bias


@pytest.mark.parametrize(
    ("units", "bottleneck", "size", "params", "macs"),
    [
        ((2, 2, 2, 2), False, 435, 11_689_512, 1_814_073_344),
        ((3, 4, 6, 3), False, 899, 21_797_672, 3_663_761_408),
        ((3, 4, 6, 3), True, 427, 25_557_032, 4_089_184_256),
        ((3, 4, 23, 3), True, 971, 44_549_160, 7_801_405_440),
    ],
    ids=["resnet18", "resnet34", "resnet50", "resnet101"],
)
def test_torchvision_resnets_as_published(units, bottleneck, size, params, macs):
    """Params: torchvision's model cards (without the running statistics). macs: fvcore's counts."""
    total = analyse(resnet(units, bottleneck=bottleneck, last=False, pool=(1, 1, 1, 1))).total
    assert total.field.size == (size, size)
    assert total.trainable == params
    assert total.macs == macs


def test_mobilenet_as_published():
    total = analyse(mobilenet_v1()).total
    # keras.applications.MobileNet's summary
    assert (total.params, total.trainable) == (4_253_864, 4_231_976)
    assert round(total.macs / 1e6) == 569  # Howard et al. 2017, table 4


def test_lenet_5_as_published():
    """LeCun et al. 1998, with every map of C3 reading every map of S2, as it is written today."""
    conv, pool = L.Conv2D, L.AveragePooling2D
    layers = (
        conv(6, 5),
        pool(2),
        conv(16, 5),
        pool(2),
        conv(120, 5),
        L.Flatten(),
        L.Dense(84),
        L.Dense(10),
    )
    analysis = analyse(Net((32, 32, 1), layers))
    assert [row.params for row in analysis.layers if row.params] == [
        156,
        2_416,
        48_120,
        10_164,
        850,
    ]
    assert analysis.total.field.size == (32, 32)


def test_torchvision_alexnet_as_published():
    conv, pool = L.Conv2D, L.MaxPooling2D
    plan = (conv(64, 11, 4, (2, 2, 2, 2)), pool(3, 2), conv(192, 5, padding="same"), pool(3, 2))
    plan += (
        conv(384, 3, padding="same"),
        conv(256, 3, padding="same"),
        conv(256, 3, padding="same"),
        pool(3, 2),
    )
    net = Net((224, 224, 3), (*plan, L.Flatten(), L.Dense(4096), L.Dense(4096), L.Dense(1000)))
    assert analyse(net).total.params == 61_100_840
    assert round(analyse(net).total.macs / 1e6) == 714
