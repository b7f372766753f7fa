"""The rules of core/check.py: each is seen to fire, and to be silent where a sound net does the
like.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convwise.core import layers as L
from convwise.core.calculus import analyse
from convwise.core.check import CHECKS, SEVERITIES, Finding, check, findings
from convwise.core.checks.context import Context
from convwise.core.checks.windows import readings
from convwise.core.net import Net
from convwise.core.parameters import MOST_SIZE
from convwise.core.problems import ShapeError, UnusableInput
from convwise.core.windows import Window
from convwise.evidence.fixes import edited
from nets import nets

LOOSE = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
HEAD = (L.GlobalAveragePooling2D(), L.Dense(10, activation="softmax"))


def net(*layers: L.Layer, shape: tuple[int, int, int] = (16, 16, 8)) -> Net:
    return Net(shape, layers)


def conv(filters: int = 8, kernel: int = 3, strides: int = 1, **more: object) -> L.Conv2D:
    """A convolution as most are: 'same', with relu, unless said otherwise."""
    return L.Conv2D(filters, kernel, strides, **{"padding": "same", "activation": "relu", **more})


def unit(
    name: str,
    filters: int = 8,
    reads: str = "",
    kernel: int = 3,
    strides: int = 1,
    act: str = "relu",
):
    """Convolution, normalisation and activation; the last is called `name`."""
    yield conv(filters, kernel, strides, use_bias=False, activation=None, name=f"{name}_conv",
               inputs=(reads,) if reads else ())  # fmt: skip
    yield L.BatchNormalization(name=f"{name}_bn" if act else name)
    if act:
        yield L.Activation(act, name=name)


def bottleneck() -> Net:
    """A residual bottleneck, as ResNet-50: 64 to 16 and back."""
    body = (*unit("a", 16, kernel=1), *unit("b", 16), *unit("c", 64, kernel=1, act=""))
    return net(
        *unit("stem", 64),
        *body,
        L.Add(inputs=("c", "stem")),
        L.Activation("relu"),
        *HEAD,
        shape=(12, 12, 3),
    )


def inverted() -> Net:
    """Two inverted residuals of MobileNetV2, the first without a sum: a linear waist between 1x1
    convolutions.
    """

    def block(name: str, out: int, strides: int, multiplier: int = 6):
        yield from unit(f"{name}_wide", multiplier * 8, kernel=1, act="relu6")
        yield L.DepthwiseConv2D(3, strides, "same", use_bias=False, name=f"{name}_dw")
        yield L.BatchNormalization()
        yield L.Activation("relu6")
        yield from unit(name, out, kernel=1, act="")

    return net(
        *unit("stem", 32),
        *block("one", 8, 2),
        *block("two", 8, 1),
        L.Add(inputs=("two", "one")),
        *HEAD,
    )


def inception() -> Net:
    """Four branches, padded 'same' at stride 1: equal 1x1 convolutions, another kernel each, a
    pool.
    """
    branches = (conv(8, 1, name="p", inputs=("stem",)), conv(8, 1, name="q", inputs=("stem",)),
                conv(8, 3, name="r"), L.MaxPooling2D(3, 1, "same", name="s",
                inputs=("stem",)))  # fmt: skip
    return net(
        conv(8, name="stem"),
        *branches,
        L.Concatenate(inputs=("p", "q", "r", "s")),
        *HEAD,
        shape=(12, 12, 3),
    )


def trident(**changes: int) -> Net:
    """One kernel in two branches that look otherwise, as TridentNet's."""
    return net(conv(name="a"), conv(name="b", inputs=("input",), shares="a", **changes))


def densenet() -> Net:
    """A dense block of 4, and its transition, which halves the width by a 1x1 convolution."""
    layers: list[L.Layer] = [conv(16, name="c0")]
    for i in range(4):
        layers += [
            L.BatchNormalization(),
            L.Activation("relu"),
            conv(8, activation=None, use_bias=False, name=f"n{i}"),
        ]
        layers += [L.Concatenate(name=f"c{i + 1}", inputs=(f"c{i}", f"n{i}"))]
    layers += [L.BatchNormalization(), L.Activation("relu"), conv(24, 1, activation=None,
               use_bias=False), L.AveragePooling2D(2), L.BatchNormalization(),
               L.Activation("relu")]  # fmt: skip
    return net(*layers, *HEAD)


def gated(times: int) -> Net:
    """Squeeze and excitation after each convolution, as EfficientNet: its sigmoids only
    multiply.
    """
    layers: list[L.Layer] = [conv(8, name="m0")]
    for i in range(times):
        layers += [L.GlobalAveragePooling2D(True, inputs=(f"m{i}",)), conv(4, 1),
                   conv(8, 1, activation="sigmoid", name=f"g{i}"),
                   L.Multiply(inputs=(f"m{i}", f"g{i}")), conv(8, name=f"m{i + 1}")]  # fmt: skip
    return net(*layers, *HEAD)


def convnext() -> Net:
    """A patch stem without activation into a depthwise convolution, and a block of two Dense."""
    body = (L.DepthwiseConv2D(7, padding="same"), L.LayerNormalization(), L.Dense(32,
            activation="gelu"), L.Dense(8), L.LayerScale(name="scaled"))  # fmt: skip
    return net(L.Conv2D(8, 4, 4), L.LayerNormalization(name="stem"), *body, L.Add(inputs=("scaled",
               "stem")), *HEAD, shape=(64, 64, 3))  # fmt: skip


def unet(up: L.Layer) -> Net:
    """One turn of a U-Net: down by a pool, up by a layer, and the map from before beside it."""
    enlarged = type(up)(**{**vars(up), "name": "up"})
    return net(
        conv(name="skip"),
        L.MaxPooling2D(2),
        conv(16),
        enlarged,
        L.Concatenate(inputs=("up", "skip"), name="join"),
    )


SOUND: dict[str, Callable[[], Net]] = {
    "plain": lambda: net(*unit("a", 16), L.MaxPooling2D(2), *unit("b", 32), *HEAD),
    "bottleneck": bottleneck,
    "inverted": inverted,
    "inception": inception,
    "densenet": densenet,
    "gated": lambda: gated(5),
    "convnext": convnext,
    "separable": lambda: net(
        L.DepthwiseConv2D(3, padding="same"), conv(16, 1), L.MaxPooling2D(2), conv(16), *HEAD
    ),
}

# For each rule: nets on which it fires, with the layers it names, then nets on which it is silent.
Fires = tuple[Net, tuple[str, ...]]
CASES: dict[str, tuple[list[Fires], list[Net]]] = {
    "softmax of one": (
        [(net(*HEAD[:1], L.Dense(1, activation="softmax", name="out")), ("out",)),
         (net(*HEAD[:1], L.Dense(1), L.Activation("softmax", name="out")), ("out",))],
        [net(*HEAD), net(L.Flatten(), L.Dense(1, activation="sigmoid"))],
    ),
    "kernel larger than its map": (
        [(net(conv(), L.MaxPooling2D(8), conv(name="late")), ("late",)),
         (net(conv(kernel=3, dilation_rate=8, name="wide")), ("wide",))],
        [net(conv(kernel=7), L.MaxPooling2D(4), conv()), net(conv(), L.MaxPooling2D(16),
        conv(kernel=1))],
    ),
    "strides skip inputs": (
        [(net(conv(kernel=1, strides=2, name="skips")), ("skips",)),
         (net(L.MaxPooling2D(2, 3, name="pool")), ("pool",)),
         (net(conv(kernel=2, dilation_rate=2, strides=3, padding="valid", name="holes")),
         ("holes",))],
        [net(conv(strides=2), L.MaxPooling2D(2)), net(conv(dilation_rate=2, strides=3))],
    ),
    "border lost": (
        [(net(L.MaxPooling2D(3, name="pool")), ("pool",)),
         (net(conv(4, 3, 2, padding="valid", name="conv")), ("conv",))],
        [net(L.MaxPooling2D(2), conv(4, 2, 2, padding="valid")), net(L.MaxPooling2D(3,
        padding="same")),
         net(conv(padding="valid")), net(L.ZeroPadding2D(), L.MaxPooling2D(3, 2))],
    ),
    "sees only padding": (
        [(net(conv(padding=(3, 0, 0, 0), name="far")), ("far",)),
         (net(conv(kernel=(1, 2), padding=(0, 0, 2, 2), dilation_rate=(1, 24), name="holes"),
         shape=(16, 21, 3)),
          ("holes",))],
        [net(conv(), conv(padding=(2, 2, 2, 2))), net(L.MaxPooling2D(3, 2, "same"), shape=(15, 15,
        3))],
    ),
    "checkerboard": (
        [(net(L.Conv2DTranspose(8, 3, 2, name="up")), ("up",)),
         (net(L.Conv2DTranspose(8, (2, 5), (1, 2), name="up")), ("up",))],
        [net(L.Conv2DTranspose(8, 4, 2)), net(L.Conv2DTranspose(8, 3)), net(L.UpSampling2D(2),
        conv())],
    ),
    "off centre": (
        [(net(conv(kernel=4, name="even")), ("even",)), (net(conv(kernel=(3, 2), name="even")),
        ("even",))],
        [net(conv(), conv(kernel=2, strides=2), conv(kernel=2, padding="valid"))],
    ),
    "past the border layer": (
        [(net(*(conv(name=f"c{i}") for i in range(10))), ("c8", "c9"))],
        [net(*(conv() for _ in range(8))), net(*(conv() for _ in range(8)), conv(kernel=1)),
        gated(5)],
    ),
    "field too small": (
        [(net(conv(), conv(name="last"), *HEAD, shape=(64, 64, 3)), ("last",)),
         (net(conv(), conv(name="last"), L.Reshape((-1, 8)), L.Dense(4), L.Flatten(), L.Dense(3),
         shape=(64, 64, 3)),
          ("last",))],
        [net(*unit("a"), *unit("b"), L.MaxPooling2D(2), *unit("c"), *HEAD), net(L.Flatten(),
        L.Dense(3)),
         net(conv(8, 8, 8), L.Reshape((64, 8)), L.Opaque("Permute", (8, 64)), L.Dense(64),
         shape=(64, 64, 3)),
         net(conv(8, 8, 8), L.Reshape((8, 64)), L.Dense(64), shape=(64, 64, 3))],
    ),
    "misaligned branches": (
        [(net(conv(name="a"), conv(name="b", kernel=2, padding=(0, 1, 0, 1)), L.Add(inputs=("a",
        "b"), name="sum")),
          ("sum",)),
         (unet(L.Conv2DTranspose(8, 3, 2, "same")), ("join",))],
        [inception(), bottleneck(), unet(L.UpSampling2D(2)), unet(L.UpSampling2D(2, "bilinear")),
         net(conv(strides=2, name="a"), L.Opaque("Other", (8, 8, 8), name="b"), L.Add(inputs=("a",
         "b"))),
         unet(L.Conv2DTranspose(8, 2, 2)), unet(L.Conv2DTranspose(8, 4, 2, "same"))],
    ),
    "width shrinks": (
        [(net(conv(64), conv(8, name="narrow"), *HEAD), ("narrow",))],
        [bottleneck(), inverted(), net(conv(64), conv(32), *HEAD), net(conv(64), conv(8), conv(64),
        *HEAD),
         net(conv(64), conv(3)), net(conv(64, strides=2), L.UpSampling2D(), conv(8), conv(1))],
    ),
    "width explodes": (
        [(net(conv(8), conv(64, name="wide"), *HEAD), ("wide",))],
        [net(conv(64), *HEAD), net(conv(8), conv(64, strides=2), *HEAD), net(conv(8), conv(64,
        kernel=1), *HEAD),
         net(conv(8), conv(32), *HEAD), inverted()],
    ),
    "heavy head": (
        [(net(conv(64), L.Flatten(), L.Dense(64, name="fc"), L.Dense(10)), ("fc",)),
         (net(conv(64), L.Flatten(), L.Dropout(0.5), L.Dense(64, name="fc"), L.Dense(10)),
         ("fc",))],
        [net(conv(64), L.Flatten(), L.Dense(4)), net(L.GlobalAveragePooling2D(), L.Dense(20_000)),
         net(L.GlobalAveragePooling2D(True), L.Flatten(), L.Dense(20_000))],
    ),
    "bias before normalisation": (
        [(net(conv(activation=None, name="conv"), L.BatchNormalization()), ("conv",)),
         (net(conv(activation=None, name="conv"), L.MaxPooling2D(2), L.BatchNormalization()),
         ("conv",))],
        [net(*unit("a")), net(conv(), L.BatchNormalization()), net(conv(activation=None),
        L.LayerNormalization()),
         net(conv(activation=None, name="c"), L.BatchNormalization(), L.Add(inputs=("c",
         "batchnormalization")))],
    ),
    "no normalisation": (
        [(net(*(conv(name=f"c{i}") for i in range(8)), *HEAD), tuple(f"c{i}" for i in range(8))),
         (net(*(x for i in range(8) for x in (conv(name=f"c{i}"), L.MaxPooling2D(2, 1))), *HEAD),
          tuple(f"c{i}" for i in range(8)))],
        [net(*(conv() for _ in range(7)), *HEAD), net(*(conv(activation="selu") for _ in range(9)),
        *HEAD),
         net(*(conv() for _ in range(5)), L.BatchNormalization(), *(conv() for _ in range(5))),
         net(*(x for i in range(9) for x in (conv(name=f"c{i}"), L.Add(name=f"s{i}",
         inputs=(f"c{i}", f"s{i - 1}" if i
             else "input")))))],
    ),
    "no activation": (
        [(net(conv(activation=None, name="first"), conv()), ("first",)),
         (net(*unit("a", act=""), conv()), ("a_conv",)),
         (net(L.Flatten(), L.Dense(30, name="first"), L.Dense(20)), ("first",))],
        [inverted(), convnext(), densenet(), net(*unit("a"), conv()),
         net(conv(activation=None), L.MaxPooling2D(2), conv()),
         net(L.DepthwiseConv2D(3), conv(kernel=1)), net(conv(kernel=1, activation=None),
         L.DepthwiseConv2D(3))],
    ),
    "saturating activations": (
        [(net(*(conv(activation="tanh", name=f"c{i}") for i in range(4)), *HEAD), ("c0", "c1", "c2",
        "c3")),
         (net(*(x for i in range(4) for x in (*unit(f"a{i}", act="sigmoid"),)), *HEAD), ("a0", "a1",
         "a2", "a3"))],
        [gated(6), net(*(conv(activation="tanh") for _ in range(3)), *HEAD),
         net(*(conv() for _ in range(3)), L.Flatten(), L.Dense(1, activation="sigmoid"))],
    ),
    "squashed twice": (
        [(net(*HEAD, L.Activation("softmax", name="again")), ("again",))],
        [net(*HEAD), net(*HEAD[:1], L.Dense(4), L.Activation("softmax"))],
    ),
    "loss assumed": (
        [(net(*HEAD[:1], L.Dense(4, activation="softmax", name="out")), ("out",)),
         (net(*HEAD[:1], L.Dense(4, name="out")), ("out",))],
        [net(conv()), net(conv(), L.GlobalAveragePooling2D())],
    ),
    "slow depthwise": (
        [(net(L.DepthwiseConv2D(5, padding="same", name="dw")), ("dw",)),
         (net(conv(8, 7, groups=8, name="grouped")), ("grouped",)),
         (net(L.SeparableConv2D(8, (1, 5), name="sep")), ("sep",))],
        [net(L.DepthwiseConv2D(3)), net(conv(kernel=7)), net(conv(8, 5, groups=2))],
    ),
    "empty lanes": (
        [(net(conv(30, name="odd"), conv(32), *HEAD), ("odd",))],
        [net(conv(32), *HEAD), net(conv(10), *HEAD), net(conv(30), shape=(4, 4, 3)),
         net(conv(24), conv(40), *HEAD)],
    ),
    "dead layers": (
        [(net(L.Dropout(0.0, name="drop")), ("drop",)), (net(L.Activation(None, name="act")),
        ("act",)),
         (net(L.MaxPooling2D(1, name="pool")), ("pool",)), (net(L.ZeroPadding2D(0, name="pad")),
         ("pad",)),
         (net(L.Cropping2D(0, name="crop")), ("crop",)), (net(L.UpSampling2D(1, name="up")),
         ("up",)),
         (net(L.StochasticDepth(0.0, name="deep")), ("deep",)), (net(L.Rescaling(1.0,
         name="scale")), ("scale",)),
         (net(L.Reshape((16, 16, 8), name="shape")), ("shape",))],
        [net(L.Dropout(0.1), L.Activation("relu"), L.MaxPooling2D(1, 2), L.ZeroPadding2D((0, 1, 0,
        1)),
             L.Rescaling(1 / 255), L.Flatten()), net(L.MaxPooling2D(1, 1, (0, 0, 0, 0)),
             conv()).edit(
                 "maxpooling2d", strides=(2, 2))],
    ),
    "unread layers": (
        [(net(conv(name="a"), conv(name="b"), conv(name="c", inputs=("a",))), ("b",))],
        [bottleneck(), inverted(), densenet()],
    ),
    "repeated layers": (
        [(net(conv(), L.Activation("relu", name="again")), ("again",)),
         (net(*unit("a", act=""), L.BatchNormalization(name="again")), ("again",))],
        [net(*unit("a")), net(conv(activation="tanh"), L.Activation("tanh")), net(conv(),
        L.Activation("relu6"))],
    ),
    "duplicated layers": (
        [(net(L.MaxPooling2D(2, name="p"), L.MaxPooling2D(2, name="q", inputs=("input",)),
        L.Add(inputs=("p", "q"))),
          ("q",)),
         (net(conv(name="a"), conv(name="b", inputs=("input",), shares="a"), L.Add(inputs=("a",
         "b"))), ("b",))],
        [inception(), net(L.MaxPooling2D(2), L.MaxPooling2D(2)), trident(dilation_rate=2),
        trident(strides=2),
         net(conv(name="a"), conv(name="b", shares="a"), conv(name="c", shares="b")),
         net(L.Dropout(0.5, name="p"), L.Dropout(0.5, name="q", inputs=("input",)),
         L.Add(inputs=("p", "q")))],
    ),
    "unknown layers": (
        [(net(L.Opaque("FancyOp", (16, 16, 8), name="odd"), *HEAD), ("odd",)),
         (net(L.Opaque("MatMul", (16, 16, 8), 0, 9, 0, name="odd"), *HEAD), ("odd",))],
        [inception(), net(L.Opaque("Split", (16, 16, 2), 0, 0, 0, "same"))],
    ),
}  # fmt: skip
FIRING = [(rule, *case) for rule, (firing, _) in CASES.items() for case in firing]
SILENT = [(rule, quiet) for rule, (_, silent) in CASES.items() for quiet in silent]


def found(rule: str, subject: Net, **more: object) -> list[Finding]:
    return [finding for finding in findings(subject, **more) if finding.rule == rule]  # type: ignore[arg-type]


def test_every_rule_has_its_cases_and_source():
    assert (
        list(CASES)
        == list(dict.fromkeys(CASES))
        == sorted(CASES, key=[rule.name for rule in CHECKS].index)
    )
    assert {rule.name for rule in CHECKS} == set(CASES)
    assert all(rule.source for rule in CHECKS)
    assert all(firing and silent for firing, silent in CASES.values())


@pytest.mark.parametrize(
    ("rule", "subject", "layers"), FIRING, ids=[f"{r}-{'-'.join(n)}" for r, _, n in FIRING]
)
def test_a_rule_fires(rule, subject, layers):
    (finding,) = found(rule, subject)
    assert finding.layers == layers
    problem = finding.problem
    assert all(name in problem.where for name in layers[:3])
    assert problem.what
    assert problem.expected
    assert problem.fix


@pytest.mark.parametrize(
    ("rule", "subject"), SILENT, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(SILENT)]
)
def test_a_rule_is_silent(rule, subject):
    assert found(rule, subject) == []


@pytest.mark.parametrize("name", SOUND)
def test_sound_nets_get_notes_at_most(name):
    said = [finding for finding in findings(SOUND[name]()) if finding.problem.severity != "note"]
    assert [(finding.rule, str(finding.problem)) for finding in said] == []


# --- numbers and severities -----------------------------------------------------------------


def test_a_kernel_larger_than_its_map_is_a_warning_for_it_runs():
    """SSD300 ends in a padded 3x3 on a map of 1x1, DeepLabV3 dilates by more than its map has at
    224 px.
    """
    (dead,) = found("kernel larger than its map", net(L.GlobalAveragePooling2D(True), conv()))
    assert dead.problem.severity == "warning"
    assert "8 of its 9 taps never read a pixel" in dead.problem.what
    (crowded,) = found("kernel larger than its map", net(L.MaxPooling2D(8), conv()))
    assert crowded.problem.severity == "warning"
    # 16 of 36 reads lie on the 2x2 map
    assert "56 % of what it reads is padding" in crowded.problem.what


def test_a_shortcut_that_skips_is_a_note_where_its_neighbour_reads_everything():
    def block(strides: int, kernel: int) -> Net:
        return net(conv(name="a"), conv(16, kernel, strides, name="b"), conv(16, 1, 2, name="s",
                   inputs=("a",)), L.Add(inputs=("b", "s")))  # fmt: skip

    (note,) = found("strides skip inputs", block(2, 3))
    assert (note.problem.severity, note.layers) == ("note", ("s",))
    (warning,) = found("strides skip inputs", block(2, 1))
    assert (warning.problem.severity, warning.layers) == ("warning", ("b", "s"))
    assert "never read 75 % of the 16x16 map" in warning.problem.what


def test_a_decoder_half_a_px_off_is_a_note():
    (note,) = found("misaligned branches", unet(L.Conv2DTranspose(8, 3, 2, "same")))
    assert note.problem.severity == "note"
    assert "up at -0.5 px + 1, skip at 0 px + 1" in note.problem.what
    far = net(conv(name="skip"), L.MaxPooling2D(2), L.UpSampling2D(2), conv(kernel=5, padding=(4, 0,
              4, 0), name="up"), L.Add(inputs=("up", "skip")))  # fmt: skip
    (warning,) = found("misaligned branches", far)
    assert warning.problem.severity == "warning"


def test_corners_that_meet_are_a_note():
    """Of two maps whose corners are aligned, as many U-Nets enlarge, no place is a unit away from
    its other.
    """
    enlarged = L.Opaque("Resize", (16, 16, 16), 0, 0, 16**3, "aligned bilinear", name="up")
    (note,) = found("misaligned branches", net(conv(name="skip"), L.MaxPooling2D(2), conv(16),
                                               enlarged, L.Concatenate(inputs=("up", "skip"),
                                               name="join")))  # fmt: skip
    assert note.problem.severity == "note"


def test_rows_lost_are_counted():
    (finding,) = found("border lost", net(L.MaxPooling2D((4, 3)), shape=(19, 32, 1)))
    assert "the last 3 of 19 rows and the last 2 of 32 columns" in finding.problem.what


def test_a_measured_scale_decides_instead_of_the_image():
    subject = net(conv(), conv(), *HEAD, shape=(64, 64, 3))
    assert found("field too small", subject, scale_px=5) == []
    (finding,) = found("field too small", subject, scale_px=9)
    assert "less than the 9 px that suffice to tell the images apart" in finding.problem.what
    assert "5x5 px of a 64x64 image (8 % of its side)" in finding.problem.what.replace(
        "5 px", "5x5 px"
    )


def test_wider_vectors_leave_more_lanes_empty():
    (finding,) = found("empty lanes", net(conv(44), conv(48), *HEAD), vector=16)
    assert "leave 4 of 48 lanes empty" in finding.problem.what
    assert found("empty lanes", net(conv(44), conv(48), *HEAD), vector=4) == []


def test_many_cases_make_one_finding():
    (finding,) = found("bias before normalisation",
        net(*(x for i in range(9) for x in ( conv(activation=None, name=f"c{i}"),
        L.BatchNormalization(), L.Activation("relu")))))  # fmt: skip
    assert finding.problem.count == len(finding.layers) == len(finding.edits) == 9
    assert finding.problem.where == "c0, c1, c2 and 6 more"
    assert finding.problem.fix == "use_bias=False"


def test_the_worst_comes_first():
    problems = check(
        net(
            conv(activation=None),
            L.BatchNormalization(),
            *HEAD[:1],
            L.Dense(1, activation="softmax"),
        )
    )
    severities = [SEVERITIES.index(problem.severity) for problem in problems]
    assert severities == sorted(severities)
    assert problems[0].severity == "error"


@LOOSE
@given(st.data())
def test_what_windows_read_is_what_a_loop_over_every_tap_says(data):
    number = st.integers(1, 4)
    size, kernel, stride, dilation = (
        data.draw(st.tuples(n, n)) for n in (st.integers(1, 9), number, number, number)
    )
    pads = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    layer = L.Conv2D(1, kernel, stride, pads, dilation)
    try:
        output = analyse(net(layer, shape=(*size, 1))).layers[0].output_shape
    except ShapeError:
        return
    read = [[(i * s - p + t * d, t) for i, t in product(range(o), range(k))]
            for o, k, s, d, p in zip(output, kernel, stride, dilation, pads[::2],
            strict=False)]  # fmt: skip
    for axis, side in enumerate(readings(Window(kernel, stride, dilation, pads), size, output)):
        inside = [(px, tap) for px, tap in read[axis] if 0 <= px < size[axis]]
        assert side.share == pytest.approx(len(inside) / len(read[axis]))
        assert side.dead == kernel[axis] - len({tap for _, tap in inside})
        assert side.read == len({px for px, _ in inside})
        if inside:
            assert side.lost == size[axis] - 1 - max(px for px, _ in inside)


def test_the_trunk_is_what_every_path_passes():
    assert [layer.name for layer in Context(bottleneck()).trunk] == [
        "stem_conv", "stem_bn", "stem", "add", "activation", "globalaveragepooling2d", "dense"
    ]  # fmt: skip


# --- fixes ----------------------------------------------------------------------------------

# What is left to a person.
BY_HAND = {"misaligned branches", "loss assumed", "unknown layers"}


@pytest.mark.parametrize(
    ("rule", "subject", "layers"), FIRING, ids=[f"{r}-{'-'.join(n)}" for r, _, n in FIRING]
)
def test_a_fix_is_a_valid_net_on_which_the_rule_is_silent(rule, subject, layers):
    (finding,) = found(rule, subject)
    changed = edited(subject, finding)
    if rule in BY_HAND or len(subject.layers) == len(finding.edits) == 1 and finding.edits[0].reads:
        assert changed is None
        return
    assert changed is not None
    if rule == "field too small":  # a stride more may not be enough
        assert analyse(changed).total.field.size > analyse(subject).total.field.size
    else:
        assert found(rule, changed) == []


def test_a_normalisation_is_put_between_convolution_and_activation():
    subject = net(*(conv(name=f"c{i}") for i in range(8)), *HEAD)
    (finding,) = found("no normalisation", subject)
    changed = edited(subject, finding)
    assert changed is not None
    assert [layer.op for layer in changed.layers[:4]] == [
        "Conv2D",
        "BatchNormalization",
        "Activation",
        "Conv2D",
    ]
    assert changed.layers[0].name == "c0"
    assert not changed.layers[0].use_bias
    assert changed.layers[3].inputs == ("c0_activation",)


def test_an_edit_that_does_not_fit_is_none():
    """Padding one of two pools that are added makes it a row longer than the other."""
    subject = net(L.MaxPooling2D(3, name="p"), conv(8, 12, padding="valid", inputs=("input",),
                  name="c"), L.Add(inputs=("p", "c")))  # fmt: skip
    (finding,) = found("border lost", subject)
    assert finding.edits
    assert edited(subject, finding) is None


@LOOSE
@given(subject=nets())
def test_any_net_can_be_checked_and_edited(subject):
    for finding in findings(subject):
        assert set(finding.layers) <= {layer.name for layer in subject.layers}
        changed = edited(subject, finding)
        assert changed is None or analyse(changed).layers


# --- pace -----------------------------------------------------------------------------------


def chain() -> Net:
    return net(*(conv() for _ in range(1000)))


def residual() -> Net:
    layers: list[L.Layer] = [conv(name="s0")]
    for i in range(333):
        layers += [*unit(f"u{i}", act=""), L.Add(name=f"s{i + 1}", inputs=(f"s{i}", f"u{i}"))]
    return net(*layers)


@pytest.mark.parametrize("make", [chain, residual])
def test_a_thousand_layers_take_less_than_a_second(make):
    subject = make()
    assert len(subject.layers) >= 1000
    best = min(_seconds(subject) for _ in range(3))
    assert best < 1.0


LARGE = {
    "kernel": lambda: net(conv(kernel=MOST_SIZE), shape=(10**9, 10**9, 3)),
    "dilated": lambda: net(
        conv(kernel=MOST_SIZE, strides=999, dilation_rate=17), shape=(10**9, 10**9, 3)
    ),
    "pool": lambda: net(L.MaxPooling2D(MOST_SIZE, 1, "same")),
    "enlarged": lambda: net(L.UpSampling2D(4096, "bicubic"), *(conv(kernel=999) for _ in range(5))),
    "holes": lambda: net(L.Conv2DTranspose(8, 1, 1024), conv(kernel=199)),
    "adaptive": lambda: net(
        L.AdaptiveAveragePooling2D(4096), conv(), shape=(10**6 + 3, 10**6 + 3, 8)
    ),
    "many phases": lambda: net(L.UpSampling2D(2048), *(conv() for _ in range(3000))),
    "five thousand": lambda: net(*(L.Activation("relu") for _ in range(5000))),
    "read by all": lambda: net(
        *(L.Conv2D(1, 1, name=f"c{i}", inputs=("input",)) for i in range(3000)),
        L.Concatenate(inputs=tuple(f"c{i}" for i in range(3000))),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_largest_numbers_are_answered_in_seconds(name):
    assert _seconds(LARGE[name]()) < 20  # twice that of a machine with much else to do


@pytest.mark.parametrize("size", [MOST_SIZE + 1, 10**6, 10**9])
@pytest.mark.parametrize("kind", [L.UpSampling2D, L.AdaptiveAveragePooling2D, L.MaxPooling2D])
def test_larger_numbers_are_refused(kind, size):
    with pytest.raises(UnusableInput, match="at most 65,536"):
        kind(size)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [[L.UpSampling2D(MOST_SIZE)] * 2, [L.UpSampling2D(16),
                                    L.MaxPooling2D(15)] * 5,
                                    [L.Conv2DTranspose(8, 1, MOST_SIZE)] * 2])  # fmt: skip
def test_a_field_of_too_many_phases_is_not_known(layers):
    """Each unit is looked at until the fields repeat: where that is too late, nothing is said of
    them.
    """
    subject = net(conv(), *layers, shape=(64, 64, 3))
    assert _seconds(subject) < 10
    assert not analyse(subject).total.field.known
    assert analyse(net(conv(), L.UpSampling2D(4096), shape=(64, 64, 3))).total.field.known


def _seconds(subject: Net) -> float:
    started = time.process_time()
    analyse(subject)
    findings(subject)
    return time.process_time() - started


def test_a_map_that_sees_no_row_of_the_image_is_answered():
    """It reads only the zeros that a transposed convolution puts between its rows."""
    last = (L.Conv2DTranspose(1, 1, 3), L.Cropping2D((1, 0, 0, 0)), L.Conv2D(1, 1, strides=(3, 1)))
    blind = Net((12, 12, 1), (L.Conv2D(2, 3), *last))
    assert analyse(blind).total.field.size == (0, 3)
    assert any("field" in str(problem) for problem in findings(blind))
