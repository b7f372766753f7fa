"""Rules on windows and fields: what is read, what never is, and how far a net sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import ceil, log2, prod
from typing import NamedTuple

from convwise.core import layers as L
from convwise.core.checks.context import (
    CONVS,
    Case,
    Context,
    Conv,
    Edit,
    is_pointwise,
    is_unknown,
    one,
)
from convwise.core.field import Field
from convwise.core.geometry import CONVOLUTIONS, JOINS
from convwise.core.text import times
from convwise.core.windows import Shape, Window, landings

POOLS = (L.MaxPooling2D, L.AveragePooling2D)
SMALL_SHARE = 1 / 3  # of the image's side that the last map's field covers at least
AXES = ("rows", "columns")
LOST_SHARE = 1 / 16  # of rows or columns: above it, losing them is worth a warning


class Reading(NamedTuple):
    """One axis under a window: its px, the window's outputs, and what px each of its taps reads."""

    px: int
    outputs: int
    taps: tuple[range, ...]
    blind: int  # outputs that read no px

    @property
    def dead(self) -> int:
        """Taps that never read a pixel."""
        return sum(not taken for taken in self.taps)

    @property
    def share(self) -> float:
        """The share of what the taps read that lies on the map."""
        return sum(map(len, self.taps)) / (self.outputs * len(self.taps))

    @property
    def read(self) -> int:
        """Px that any tap reads."""
        return _in_any(self.taps)

    @property
    def lost(self) -> int:
        """Px at the end that come after the last one read."""
        return self.px - 1 - max((taken[-1] for taken in self.taps if taken), default=self.px - 1)


def readings(
    window: Window, given: Sequence[int], output: Sequence[int]
) -> tuple[Reading, Reading]:
    """What a window reads along rows and columns of a map of shape `given`."""
    rows, columns = (_reading(window, axis, given[axis], output[axis]) for axis in (0, 1))
    return rows, columns


def _reading(window: Window, axis: int, px: int, outputs: int) -> Reading:
    seeing, taps = zip(*landings(window, axis, px, outputs), strict=True)
    return Reading(px, outputs, taps, outputs - _in_any(seeing))


def _in_any(ranges: Iterable[range]) -> int:
    """How many numbers are in any of these ranges, which have one step."""
    count, ends = 0, dict[int, int]()  # for each rest of the step, where what is counted ends
    for each in sorted(filter(None, ranges), key=lambda each: each.start):
        end = ends.get(each.start % each.step, each.start)
        count += max(0, len(range(max(each.start, end), each.stop, each.step)))
        ends[each.start % each.step] = max(end, each[-1] + each.step)
    return count


def kernel_over_map(context: Context) -> Iterator[Case]:
    """Kernels that are larger than the map they move over."""
    for layer in context.each(*CONVOLUTIONS):
        window = context.window(layer)
        if window and any(
            reach > n for reach, n in zip(window.reach, context.given(layer), strict=False)
        ):
            yield _kernel_case(context, layer, window)


def _kernel_case(context: Context, layer: L.Layer, window: Window) -> Case:
    given = context.given(layer)
    rows, columns = readings(window, given, context.shape(layer.name))
    taps = prod(window.kernel)
    dead = taps - (len(rows.taps) - rows.dead) * (len(columns.taps) - columns.dead)
    what = f"its kernel reaches {times(window.reach)} on a map of {times(given[:2])}: "
    what += f"{100 * (1 - rows.share * columns.share):.0f} % of what it reads is padding"
    what += f", and {dead} of its {taps} taps never read a pixel" if dead else ""
    tall, wide = (min(k, n - (n % 2 == 0)) for k, n in zip(window.kernel, given, strict=False))
    kernel = (tall, wide)
    changes = {"kernel_size": kernel, "dilation_rate": (1, 1), "padding": "same"}
    fix = f"kernel_size={one(kernel)}, or fewer strides and pools before it"
    edits = (Edit(layer.name, changes),)
    return Case((layer.name,), what, "a kernel within its map", fix, edits)


def skipped_inputs(context: Context) -> Iterator[Case]:
    """Windows smaller than their stride, or with holes that no other fills: some px go unread."""
    for layer in context.each(*CONVOLUTIONS, *POOLS):
        window = context.window(layer)
        if window and _skips(context, layer):
            yield _skipping_case(context, layer, window)


def _skips(context: Context, layer: L.Layer) -> bool:
    if not isinstance(layer, (*CONVOLUTIONS, *POOLS)) or not (window := context.window(layer)):
        return False
    if max(window.strides) > 1 and max(window.dilation) > 1:
        read = readings(window, context.given(layer), context.shape(layer.name))
        return any(side.read < side.px - side.lost for side in read)
    sides = zip(window.reach, window.strides, context.given(layer), strict=False)
    return any(reach < stride and n > reach for reach, stride, n in sides)


def _skipping_case(context: Context, layer: L.Layer, window: Window) -> Case:
    rows, columns = readings(window, context.given(layer), context.shape(layer.name))
    unread = 1 - rows.read * columns.read / (rows.px * columns.px)
    holes = f" with dilation_rate {times(window.dilation)}" if max(window.dilation) > 1 else ""
    what = f"windows of {times(window.kernel)}{holes} at strides {times(window.strides)} "
    what += f"never read {100 * unread:.0f} % of the {times((rows.px, columns.px))} map"
    others = [reader for reader in context.readers[layer.inputs[0]] if reader is not layer]
    whole = any(not _skips(context, reader) for reader in others)
    what += ", although another layer reads all of it" if whole else ""
    fix, edit = _covering(layer, window)
    return Case((layer.name,), what, "windows without gaps between them", fix, (edit,),
                "note" if whole else None)  # fmt: skip


def _covering(layer: L.Layer, window: Window) -> tuple[str, Edit]:
    """How every input comes to be read: a larger window, or before a 1x1 convolution a pool."""
    step = one(window.strides)
    if isinstance(layer, L.Conv2D) and layer.kernel_size == (1, 1):
        pool = L.AveragePooling2D(window.strides, window.strides, "same")
        fix = f"AveragePooling2D({step}) before it and strides=1"
        unstrided = L.Conv2D(layer.filters, (1, 1), (1, 1), "same", (1, 1), layer.groups,
                             layer.use_bias, layer.activation)  # fmt: skip
        return fix, Edit(layer.name, instead=(pool, unstrided))
    larger = max(window.kernel[0], window.strides[0]), max(window.kernel[1], window.strides[1])
    word = "pool_size" if isinstance(layer, POOLS) else "kernel_size"
    fix = f"{word}={one(larger)}"
    if max(window.dilation) > 1:
        changes = {word: larger, "dilation_rate": (1, 1)}
        return f"dilation_rate=1 with {fix}", Edit(layer.name, changes)
    return fix, Edit(layer.name, {word: larger})


def lost_border(context: Context) -> Iterator[Case]:
    """Strided windows that leave a rest at the end unread."""
    for layer in context.each(*CONVOLUTIONS, *POOLS):
        window = context.window(layer)
        if window is None or max(window.strides) == 1 or _skips(context, layer):
            continue
        sides = readings(window, context.given(layer), context.shape(layer.name))
        before = context.layers.get(layer.inputs[0])
        # Zeros that were padded are no loss
        zeros = before.padding[1::2] if isinstance(before, L.ZeroPadding2D) else (0, 0)
        lost = [max(0, side.lost - added) for side, added in zip(sides, zeros, strict=True)]
        if any(lost):
            yield _lost_case(
                layer, lost, [side.px - added for side, added in zip(sides, zeros, strict=True)]
            )


def _lost_case(layer: L.Layer, lost: Sequence[int], px: Sequence[int]) -> Case:
    names = zip(lost, px, AXES, strict=True)
    said = [f"the last {missing} of {there} {name}" for missing, there, name in names if missing]
    share = max(missing / there for missing, there in zip(lost, px, strict=True))
    what = f"its windows never read {' and '.join(said)}"
    fix = 'padding="same", or an input of a size that the strides divide'
    edits = (Edit(layer.name, {"padding": "same"}),)
    return Case((layer.name,), what, "windows that reach the end of the map", fix, edits,
                "warning" if share >= LOST_SHARE else "note")  # fmt: skip


def only_padding(context: Context) -> Iterator[Case]:
    """Windows so far outside the map that they read padding alone."""
    for layer in context.each(*CONVOLUTIONS, *POOLS):
        window = context.window(layer)
        if window is None or not any(window.pads):
            continue
        sides = readings(window, context.given(layer), context.shape(layer.name))
        blind = [
            (each.blind, each.outputs, name)
            for each, name in zip(sides, AXES, strict=True)
            if each.blind
        ]
        if blind:
            what = " and ".join(f"{n} of its {outputs} output {name}" for n, outputs, name in blind)
            near = {"dilation_rate": (1, 1)} if max(window.dilation) > 1 else {}
            edits = (Edit(layer.name, {"padding": "same", **near}),)
            fix = 'padding="same"' + " and dilation_rate=1" * bool(near)
            yield Case(
                (layer.name,), f"{what} see only padding", "windows that reach the map", fix, edits
            )


def checkerboard(context: Context) -> Iterator[Case]:
    """Transposed convolutions whose outputs alternately sum more and fewer inputs."""
    for layer in context.each(L.Conv2DTranspose):
        sides = enumerate(zip(layer.kernel_size, layer.strides, layer.dilation_rate, strict=True))
        uneven = [
            axis for axis, (kernel, stride, dilation) in sides if kernel % stride and dilation == 1
        ]
        if uneven:
            axis = uneven[0]
            kernel, stride = layer.kernel_size[axis], layer.strides[axis]
            what = (
                f"its output {AXES[axis]} alternately sum {kernel // stride} and"
                f" {-(-kernel // stride)} inputs, "
            )
            what += (
                f"which shows as a checkerboard: strides {stride} do not divide kernel_size"
                f" {kernel}"
            )
            rows, columns = (
                s * -(-k // s) for k, s in zip(layer.kernel_size, layer.strides, strict=True)
            )
            fix = f"kernel_size={one((rows, columns))}, or UpSampling2D and Conv2D"
            edits = (Edit(layer.name, {"kernel_size": (rows, columns)}),)
            yield Case((layer.name,), what, "a kernel that the strides divide", fix, edits)


def off_centre(context: Context) -> Iterator[Case]:
    """Even kernels with 'same', which pads one more at the end."""
    for layer in context.each(*CONVOLUTIONS):
        even = any(size % 2 == 0 for size in layer.kernel_size)
        if even and layer.padding == "same" and max(layer.strides) == 1:
            what = (
                f'its even kernel {times(layer.kernel_size)} with padding="same" looks half a step'
                " down or right"
            )
            rows, columns = (size + (size % 2 == 0) for size in layer.kernel_size)
            edits = (Edit(layer.name, {"kernel_size": (rows, columns)}),)
            fix = f"kernel_size={one((rows, columns))}"
            yield Case((layer.name,), what, "an odd kernel_size", fix, edits)


def past_border(context: Context) -> Iterator[Case]:
    """Convolutions whose input already sees the whole image along the shortest path."""
    sides, is_chain = context.net.input_shape[:2], context.net.is_chain
    for layer in context.each(*CONVOLUTIONS):
        seen = context.seen(layer.inputs[0])
        covered = seen.known and all(
            size >= n for size, n in zip(seen.shortest, sides, strict=True)
        )
        if covered and not is_pointwise(layer):
            what = f"its input already sees {times(seen.shortest)} px of the {times(sides)} image,"
            what += " along the shortest path, so it is predicted to add nothing"
            expected = "an input that does not see the whole image yet"
            fix = "remove it, or use fewer strides before it, or larger images"
            alike = is_chain and context.given(layer) == context.shape(layer.name)
            edits = (Edit(layer.name, reads=layer.inputs[0]),) if alike else ()
            yield Case((layer.name,), what, expected, fix, edits)


def small_field(context: Context) -> Iterator[Case]:
    """A last map whose units see too little: of the image, or of the measured scale."""
    seen = context.analysis.total.field
    convs = [layer for layer in context.each(*CONVS) if not is_pointwise(layer)]
    rows = context.analysis.layers
    where = [row.name for row in rows if row.field == seen and len(row.output_shape) == 3][-1:]
    if not seen.known or not convs or seen.size == (1, 1) or _joined_after(context, where[0]):
        return
    wanted = [context.scale_px or SMALL_SHARE * n for n in context.net.input_shape[:2]]
    if all(size >= side for size, side in zip(seen.size, wanted, strict=True)):
        return
    lack = max(side / max(size, 1) for size, side in zip(seen.size, wanted, strict=True))
    halvings = max(1, ceil(log2(lack)))
    often = "once more" if halvings == 1 else f"{halvings} more times"
    fix = f"halve the map {often} (strides=2, or MaxPooling2D(2)) early, or add layers"
    expected = f"at least {times([ceil(side) for side in wanted])} px"
    edits = tuple(_halved(context, convs))[:halvings]
    yield Case((where[0],), _field_said(context, seen), expected, fix, edits)


def _joined_after(context: Context, last: str) -> bool:
    """Whether layers after the last map may let its places see each other, as attention and
    recurrence do.

    They cannot be read, or come after a Reshape that makes channels of places.
    """
    later = context.net.layers[list(context.layers).index(last) + 1 :]
    tokens = (context.shape(each.name) for each in later if isinstance(each, L.Reshape))
    channels = context.shape(last)[-1]
    return any(map(is_unknown, later)) or any(len(s) > 1 and s[-1] != channels for s in tokens)


def _field_said(context: Context, seen: Field) -> str:
    sides = context.net.input_shape[:2]
    share = min(size / n for size, n in zip(seen.size, sides, strict=True))
    what = f"the last map sees {times(seen.size)} px of a {times(sides)} image"
    what += f" ({100 * share:.0f} % of its side)"
    if context.scale_px:
        what += f", less than the {context.scale_px:.0f} px that suffice to tell the images apart"
    return what


def _halved(context: Context, convs: Sequence[Conv]) -> Iterator[Edit]:
    """A stride where convolutions have none, first ones first: what follows sees twice as far."""
    trunk = {layer.name for layer in context.trunk}
    for layer in convs[:-1] or convs:
        if layer.name in trunk and layer.strides == (1, 1) == layer.dilation_rate:
            yield Edit(layer.name, {"strides": (2, 2), "padding": "same"})


def misaligned(context: Context) -> Iterator[Case]:
    """Joins where branches of other strides or centres meet for the first time."""
    for layer in context.each(*JOINS):
        seen = [context.seen(name) for name in layer.inputs]
        if context.rows[layer.name].field.aligned or not all(
            each.aligned and each.known for each in seen
        ):
            continue
        said = {name: _centre(each) for name, each in zip(layer.inputs, seen, strict=True)}
        what = "its branches look at different places in the image (centre of the first unit +"
        what += " step): " + ", ".join(f"{name} at {spot}" for name, spot in said.items())
        if _within_a_unit(seen, context.shape(layer.name)):
            fix = "shrink and enlarge in the same way: MaxPooling2D(2) matches UpSampling2D(2), or"
            fix += " a Conv2DTranspose that has an even kernel_size"
            yield Case((layer.name,), what, "one stride and one centre", fix, severity="note")
        else:
            fix = "the same strides and the same padding on each branch,"
            fix += ' padding="same" at odd kernels'
            yield Case((layer.name,), what, "one stride and one centre", fix)


def _within_a_unit(branches: Sequence[Field], shape: Shape) -> bool:
    """Whether a branch was enlarged, and all lie within one unit of the map it was enlarged from.

    To their ends: steps that differ drift apart.
    """
    sides = zip(*((each.rows, each.columns) for each in branches), strict=True)
    for side, both in zip(shape, sides, strict=False):
        axes = [axis for axis in both if axis.step]
        spots = [over / under for over, under in (axis.centre for axis in axes)]
        apart = max(spots, default=0) - min(spots, default=0)
        unit = max((axis.step for axis in axes if len(axis.phases) > 1), default=0)
        strides = [axis.stride for axis in axes]
        # Maps whose corners meet may drift apart in between
        apart += side * (max(strides, default=0) - min(strides, default=0))
        if apart and apart >= unit:
            return False
    return True


def _centre(seen: Field) -> str:
    """The centre of the first unit and the step to the next, in px, of rows and columns."""
    axes = []
    for axis in (seen.rows, seen.columns):
        over, under = axis.centre
        axes.append(f"{over / under:g} px + {axis.stride:g}")
    return axes[0] if axes[0] == axes[1] else " x ".join(axes)
