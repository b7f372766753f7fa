"""Receptive fields, exact: which input pixels a unit can see. Integers only.

Along one axis the field of unit i is an interval [first, last] of input px. For convolutions and
pools it moves by one step from unit to unit; after upsampling it repeats in phases; where a unit
sees the whole map it does not move at all. Terms and the chain rule after Araujo, Norris & Sim,
Computing Receptive Fields of Convolutional Neural Networks, Distill 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd, lcm

Span = tuple[int, int]


@dataclass(frozen=True)
class Steps:
    """How a layer moves along one axis: `outputs` units for every `inputs` read; unit i reads reads(i), in order.

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
        return max((last - first + 1 for first, last in filter(None, (*self.phases, self.fixed))), default=0)

    @property
    def stride(self) -> int | float:
        """Px between the fields of neighbouring units: a fraction after upsampling, 0 where all see the same."""
        whole, rest = divmod(self.step, len(self.phases))
        return self.step / len(self.phases) if rest else whole

    @property
    def padding(self) -> int:
        """Effective padding: how far the first unit's field reaches before the image's edge."""
        first = next(filter(None, (*self.phases, self.fixed)), (0, 0))[0]
        return -min(first, self.fixed[0] if self.fixed else first)

    def through(self, steps: Steps) -> Axis:
        """The field after a layer that moves so."""
        turns = len(self.phases) // gcd(len(self.phases), steps.inputs)
        phases = tuple(self._seen(steps.reads(unit)) for unit in range(turns * steps.outputs))
        return replace(self, phases=phases, step=self.step * turns * steps.inputs // len(self.phases))

    def _seen(self, units: Sequence[int]) -> Span | None:
        if len(self.phases) == 1 and units:  # a field that moves evenly: its ends are those of its ends
            units = (units[0], units[-1])
        return _hull(self.moving(unit) for unit in units)


def _hull(spans: Iterable[Span | None]) -> Span | None:
    seen = [span for span in spans if span]
    return (min(first for first, _ in seen), max(last for _, last in seen)) if seen else None


@dataclass(frozen=True)
class Field:
    """The receptive field of a layer: rows, columns, along its longest path; `short` along its shortest.

    aligned: False where branches with other strides or centres meet, so that no one stride and
    padding is true for all of them. known: False behind an Opaque layer.
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

    def through(self, rows: Steps, columns: Steps) -> Field:
        """The field after a layer that moves so along rows and columns."""
        short = self.short[0].through(rows), self.short[1].through(columns)
        return replace(self, rows=self.rows.through(rows), columns=self.columns.through(columns), short=short)


def join(fields: Sequence[Field], repeated: Sequence[tuple[bool, bool]]) -> Field:
    """Where branches meet: a unit sees what any of them sees.

    Rows and columns are joined apart, so the field is a cover, and exact but where one branch has
    units that see nothing.

    repeated: for each branch, whether its only row (column) is read by all units of the output.
    """
    rows, rows_aligned = _join_axis([field.rows for field in fields], [once for once, _ in repeated])
    columns, columns_aligned = _join_axis([field.columns for field in fields], [once for _, once in repeated])
    short = (
        _shortest([field.short[0] for field in fields], [once for once, _ in repeated]),
        _shortest([field.short[1] for field in fields], [once for _, once in repeated]),
    )
    aligned = rows_aligned and columns_aligned and all(field.aligned for field in fields)
    return Field(rows, columns, short, aligned, all(field.known for field in fields))


def _join_axis(axes: Sequence[Axis], repeated: Sequence[bool]) -> tuple[Axis, bool]:
    moving = [axis for axis, once in zip(axes, repeated, strict=True) if axis.step and not once]
    if not moving:
        return Axis((_hull(axis.at(0) for axis in axes),), 0), True
    still = [axis.at(0) for axis, once in zip(axes, repeated, strict=True) if once or not axis.step]
    fixed = _hull([*still, *(axis.fixed for axis in moving)])
    base = max(moving, key=lambda axis: axis.stride)
    even = all(axis.stride == base.stride for axis in moving)
    period = lcm(*(len(axis.phases) for axis in moving)) if even else len(base.phases)
    phases = tuple(_hull(axis.moving(unit) for axis in moving) for unit in range(period))
    joined = Axis(phases, base.step * period // len(base.phases), fixed)
    return joined, _agree(moving, period)


def _agree(axes: Sequence[Axis], period: int) -> bool:
    """Whether all move at one stride around the same centres."""
    # Twice the centre, so that it stays an integer.
    centres = {tuple(span and sum(span) for span in map(axis.moving, range(period))) for axis in axes}
    return len(centres) == 1 and len({axis.stride for axis in axes}) == 1


def _shortest(axes: Sequence[Axis], repeated: Sequence[bool]) -> Axis:
    moving = [axis for axis, once in zip(axes, repeated, strict=True) if axis.step and not once]
    return min(moving or axes, key=lambda axis: axis.size)
