"""Receptive fields, exact: which input pixels a unit can see. Integers only.

Along one axis the field of unit i is an interval [first, last] of input px. For convolutions and
pools it moves by one step from unit to unit; after upsampling it repeats in phases; where a unit
sees the whole map it does not move at all. Terms and the chain rule after Araujo, Norris & Sim,
Computing Receptive Fields of Convolutional Neural Networks, Distill 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd, lcm

Span = tuple[int, int]
# Units that are looked at for one layer: half a second, and more than any decoder asks for
LOOKS = 2**18


@dataclass(frozen=True)
class Steps:
    """How a layer moves along one axis: `outputs` units for every `inputs` read; unit i reads
    reads(i), in order.

    inputs is 0 where every unit reads the same.
    """

    outputs: int
    inputs: int
    reads: Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class Axis:
    """The fields of a layer's units along one axis.

    phases: the interval of px that units 0, 1, ... see, until they repeat `step` px further (None
    where a unit sees nothing); fixed: what every unit sees besides, through global pooling.
    """

    phases: tuple[Span | None, ...] = ((0, 0),)
    step: int = 1
    fixed: Span | None = None

    def at(self, unit: int) -> Span | None:
        """First and last px that a unit sees; beyond the image where it is padded."""
        return _hull([self.moving(unit), self.fixed])

    def moving(self, unit: int) -> Span | None:
        """As `at`, without what every unit sees."""
        turns, phase = divmod(unit, len(self.phases))
        span = self.phases[phase]
        return span and (span[0] + turns * self.step, span[1] + turns * self.step)

    @property
    def size(self) -> int:
        """Px from the first to the last that one unit can see: the most over all units."""
        return max(
            (last - first + 1 for first, last in filter(None, (*self.phases, self.fixed))),
            default=0,
        )

    @property
    def window(self) -> int:
        """As `size`, without what every unit sees besides."""
        return Axis(self.phases, self.step).size

    @property
    def stride(self) -> int | float:
        """Px between the fields of neighbouring units: a fraction after upsampling, 0 if alike."""
        whole, rest = divmod(self.step, len(self.phases))
        return self.step / len(self.phases) if rest else whole

    @property
    def padding(self) -> int:
        """Effective padding: how far the first unit's field reaches before the image's edge."""
        first = next(filter(None, (*self.phases, self.fixed)), (0, 0))[0]
        return -min(first, self.fixed[0] if self.fixed else first)

    @property
    def centre(self) -> tuple[int, int]:
        """The px in the middle of unit 0's field, as a fraction: of all units, each moved back by
        its strides.

        Over a turn of phases that is the centre by weights: bilinear interpolation sees px beside
        its place.
        """
        turn = len(self.phases)
        middles = [
            (sum(span) * turn - 2 * self.step * unit)
            for unit, span in enumerate(self.phases)
            if span
        ]
        over, under = sum(middles), 2 * turn * len(middles) or 1
        return over // gcd(over, under), under // gcd(over, under)

    def through(self, steps: Steps) -> Axis:
        """The field after a layer that moves so."""
        turns = len(self.phases) // gcd(len(self.phases), steps.inputs)
        reads = (self._ends(steps.reads(unit)) for unit in range(turns * steps.outputs))
        phases = tuple(_hull(map(self.moving, units)) for units in _looked_at(reads))
        return replace(
            self, phases=phases, step=self.step * turns * steps.inputs // len(self.phases)
        )

    def _ends(self, units: Sequence[int]) -> Sequence[int]:
        """Those of the units that see the first px and the last.

        A turn further in all comes `step` px later.
        """
        most = 1 if self._onward else len(self.phases)
        return (*units[:most], *units[-most:]) if len(units) > 2 * most else units

    @cached_property
    def _onward(self) -> bool:
        """Whether no field lies before that of an earlier unit.

        Those of many units end where their ends do.
        """
        turn = [self.moving(unit) for unit in range(len(self.phases) + 1)]
        pairs = zip(turn, turn[1:], strict=False)
        return all(a and b and a[0] <= b[0] and a[1] <= b[1] for a, b in pairs)


def _looked_at(reads: Iterable[Sequence[int]]) -> Iterator[Sequence[int]]:
    """These; OverflowError where they are more than LOOKS."""
    looks = 0
    for units in reads:
        looks += 1 + len(units)
        if looks > LOOKS:
            raise OverflowError
        yield units


def _hull(spans: Iterable[Span | None]) -> Span | None:
    seen = [span for span in spans if span]
    return (min(first for first, _ in seen), max(last for _, last in seen)) if seen else None


@dataclass(frozen=True)
class Field:
    """The receptive field of a layer: rows, columns, along its longest path; `short` along its
    shortest.

    aligned: False where branches with other strides or centres (`Axis.centre`) meet, so that no one
    stride and centre is true for all of them. known: False behind an Opaque layer that looks nobody
    knows where, or where it would take too long to look.
    """

    rows: Axis = Axis()
    columns: Axis = Axis()
    short: tuple[Axis, Axis] = (Axis(), Axis())
    aligned: bool = True
    known: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """Px that one unit can see: rows, columns."""
        return self.rows.size, self.columns.size

    @property
    def phases(self) -> int:
        """How many phases its axes have, beyond one each."""
        return sum(len(axis.phases) - 1 for axis in (self.rows, self.columns, *self.short))

    @property
    def windows(self) -> tuple[int, int]:
        """As `size`, without what all units see through global pooling: what convolutions and pools
        see.
        """
        return self.rows.window, self.columns.window

    @property
    def stride(self) -> tuple[int | float, int | float]:
        """Px between the fields of neighbouring units: rows, columns."""
        return self.rows.stride, self.columns.stride

    @property
    def padding(self) -> tuple[int, int]:
        """Effective padding: rows above, columns left."""
        return self.rows.padding, self.columns.padding

    @property
    def shortest(self) -> tuple[int, int]:
        """Px that one unit sees along the shortest path: rows, columns."""
        return self.short[0].size, self.short[1].size

    def mirrored_as_well(self, width: int) -> Field:
        """What one unit sees of an image of so many columns and of its mirror image, told in px of
        the image.
        """
        if (seen := self.columns.at(0)) is None:
            return self
        first, last = seen
        return replace(
            self, columns=Axis(((min(first, width - 1 - last), max(last, width - 1 - first)),), 0)
        )

    def through(self, rows: Steps, columns: Steps) -> Field:
        """The field after a layer that moves so along rows and columns."""
        short = self.short[0].through(rows), self.short[1].through(columns)
        return replace(
            self, rows=self.rows.through(rows), columns=self.columns.through(columns), short=short
        )


def join(
    fields: Sequence[Field], repeated: Sequence[tuple[bool, bool]], units: tuple[int, int] = (1, 1)
) -> Field:
    """Where branches meet: a unit sees what any of them sees.

    Rows and columns are joined apart, so the field is a cover, and exact but where one branch has
    units that see nothing.

    repeated: for each branch, whether its only row (column) is read by all units of the output.
    units: rows and columns of the output: branches of other strides drift apart over them.
    """
    rows, rows_aligned = _join_axis(
        [field.rows for field in fields], [once for once, _ in repeated], units[0]
    )
    columns, columns_aligned = _join_axis(
        [field.columns for field in fields], [once for _, once in repeated], units[1]
    )
    short = (
        _shortest([field.short[0] for field in fields], [once for once, _ in repeated]),
        _shortest([field.short[1] for field in fields], [once for _, once in repeated]),
    )
    aligned = rows_aligned and columns_aligned and all(field.aligned for field in fields)
    return Field(rows, columns, short, aligned, all(field.known for field in fields))


def _join_axis(axes: Sequence[Axis], repeated: Sequence[bool], count: int) -> tuple[Axis, bool]:
    moving = [axis for axis, once in zip(axes, repeated, strict=True) if axis.step and not once]
    if not moving:
        return Axis((_hull(axis.at(0) for axis in axes),), 0), True
    still = [axis.at(0) for axis, once in zip(axes, repeated, strict=True) if once or not axis.step]
    fixed = _hull([*still, *(axis.fixed for axis in moving)])
    base = max(moving, key=lambda axis: axis.stride)
    even = all(axis.stride == base.stride for axis in moving)
    turn = len(base.phases)
    period = (
        lcm(*(len(axis.phases) for axis in moving)) if even else -(-max(count, turn) // turn) * turn
    )
    units = _looked_at((unit,) * len(moving) for unit in range(period))
    phases = tuple(
        _hull(axis.moving(unit) for axis, unit in zip(moving, each, strict=True)) for each in units
    )
    joined = Axis(phases, base.step * period // len(base.phases), fixed)
    return joined, len({(axis.centre, axis.stride) for axis in moving}) == 1


def _shortest(axes: Sequence[Axis], repeated: Sequence[bool]) -> Axis:
    moving = [axis for axis, once in zip(axes, repeated, strict=True) if axis.step and not once]
    return min(moving or axes, key=lambda axis: axis.size)
