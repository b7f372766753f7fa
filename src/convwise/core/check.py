"""What is wrong with a net: a table of rules, each with its source, over the exact analysis.

'error' is said only of what is wrong for certain; a 'warning' is worth a trial; a 'note' is to
know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from convwise.core.checks import layer_order, single_layers, windows
from convwise.core.checks.context import Case, Context, Edit
from convwise.core.net import Net
from convwise.core.problems import Problem, Severity

NAMED = 3  # layers that a merged finding names


@dataclass(frozen=True)
class Check:
    """A rule: how much it matters, where it comes from, and the cases of it in a net."""

    name: str
    severity: Severity
    source: str
    cases: Callable[[Context], Iterable[Case]]


@dataclass(frozen=True)
class Finding:
    """What one rule says of a net.

    layers: those concerned; edits: the fix as changes, empty where it needs a person.
    """

    problem: Problem
    rule: str
    source: str
    layers: tuple[str, ...]
    edits: tuple[Edit, ...] = ()


CHECKS: tuple[Check, ...] = (
    Check(
        "softmax of one",
        "error",
        "exp(x) / exp(x) = 1",
        layer_order.softmax_of_one,
    ),
    Check(
        "kernel larger than its map",
        "warning",
        "geometry: taps that only meet padding have no gradient",
        windows.kernel_over_map,
    ),
    Check(
        "strides skip inputs",
        "warning",
        "He et al. 2019, arXiv 1812.01187, section 4: ResNet-B and -D",
        windows.skipped_inputs,
    ),
    Check(
        "border lost",
        "warning",
        "geometry: 'valid' gives ceil((n - k + 1) / s) outputs",
        windows.lost_border,
    ),
    Check(
        "sees only padding",
        "warning",
        "geometry: padding as large as the kernel",
        windows.only_padding,
    ),
    Check(
        "checkerboard",
        "warning",
        "Odena, Dumoulin & Olah, Distill 2016",
        windows.checkerboard,
    ),
    Check(
        "off centre",
        "note",
        "geometry: 'same' pads an even kernel by one more at the end",
        windows.off_centre,
    ),
    Check(
        "past the border layer",
        "warning",
        "Richter et al., arXiv 2106.12307",
        windows.past_border,
    ),
    Check(
        "field too small",
        "warning",
        "Araujo, Norris & Sim, Distill 2019; Richter, ICANN 2021; "
        f"1/{round(1 / windows.SMALL_SHARE)} of the image is ours",
        windows.small_field,
    ),
    Check(
        "misaligned branches",
        "warning",
        "Araujo, Norris & Sim, Distill 2019",
        windows.misaligned,
    ),
    Check(
        "width shrinks",
        "warning",
        "Szegedy et al. 2016, arXiv 1512.00567, section 2: avoid representational bottlenecks",
        layer_order.shrinking_width,
    ),
    Check(
        "width explodes",
        "warning",
        "Radosavovic et al. 2020, arXiv 2003.13678: widths of good networks grow about 2.5 times a"
        " stage",
        layer_order.growing_width,
    ),
    Check(
        "heavy head",
        "warning",
        "Lin, Chen & Yan 2014, arXiv 1312.4400, section 3.2",
        layer_order.heavy_head,
    ),
    Check(
        "bias before normalisation",
        "warning",
        "Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.2",
        layer_order.bias_before_norm,
    ),
    Check(
        "no normalisation",
        "warning",
        "Ioffe & Szegedy 2015, arXiv 1502.03167; ours: docs/findings.md",
        layer_order.missing_norm,
    ),
    Check(
        "no activation",
        "warning",
        "Goodfellow, Bengio & Courville 2016, section 6.1",
        layer_order.missing_activation,
    ),
    Check(
        "saturating activations",
        "warning",
        "Glorot & Bengio 2010, section 3",
        layer_order.saturating,
    ),
    Check(
        "squashed twice",
        "warning",
        "Keras: from_logits",
        layer_order.squashed_again,
    ),
    Check(
        "loss assumed",
        "note",
        "Keras: from_logits",
        layer_order.output_assumption,
    ),
    Check(
        "slow depthwise",
        "note",
        "ours: docs/findings.md",
        layer_order.slow_depthwise,
    ),
    Check(
        "empty lanes",
        "note",
        "oneDNN: memory formats nChw8c and nChw16c",
        single_layers.uneven_channels,
    ),
    Check(
        "dead layers",
        "note",
        "the layer's definition",
        single_layers.idle_layers,
    ),
    Check(
        "unread layers",
        "note",
        "graph: no path to the output",
        single_layers.unread_layers,
    ),
    Check(
        "repeated layers",
        "note",
        "f(f(x)) = f(x)",
        single_layers.repeated_layers,
    ),
    Check(
        "duplicated layers",
        "note",
        "graph: equal layers of equal inputs",
        single_layers.duplicated_layers,
    ),
    Check(
        "unknown layers",
        "note",
        "ours: unknown figures are reported",
        single_layers.unknown_layers,
    ),
)
# The rules that say something of one layer alone.
OF_A_LAYER = (
    "kernel larger than its map", "strides skip inputs", "border lost",
    "sees only padding", "checkerboard", "off centre",
)  # fmt: skip
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


def check(net: Net, *, scale_px: float | None = None, vector: int = 16) -> tuple[Problem, ...]:
    """What is wrong with `net`, the worst first. ShapeError where a layer does not fit its input.

    scale_px: the measured scale of the data, in px of the net's input; vector: float32 lanes of
    the machine.
    """
    return tuple(finding.problem for finding in findings(net, scale_px=scale_px, vector=vector))


def findings(
    net: Net, *, scale_px: float | None = None, vector: int = 16, outputs: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """As `check`, with the rule behind each problem and its fix as edits.

    outputs: layers that answer besides.
    """
    if not net.layers:
        return ()
    context = Context(net, scale_px, vector, tuple(outputs))
    found = [finding for rule in CHECKS for finding in _found(rule, tuple(rule.cases(context)))]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.problem.severity)))


def _found(rule: Check, cases: Sequence[Case]) -> Iterable[Finding]:
    """The cases of one rule, as one finding for each severity."""
    for severity in SEVERITIES:
        alike = [case for case in cases if (case.severity or rule.severity) == severity]
        if alike:
            yield _merged(rule, severity, alike)


def _merged(rule: Check, severity: Severity, cases: Sequence[Case]) -> Finding:
    layers = tuple(name for case in cases for name in case.layers)
    edits = tuple(edit for case in cases for edit in case.edits)
    first, count, unnamed = cases[0], len(cases), len(layers) - NAMED
    where = ", ".join(layers[:NAMED]) + (f" and {unnamed} more" if unnamed > 0 else "")
    what = first.what + (f" (the first of {count} such cases)" if count > 1 else "")
    problem = Problem(where, what, first.expected, _fixes(cases), severity, count)
    return Finding(problem, rule.name, rule.source, layers, edits)


def _fixes(cases: Sequence[Case]) -> str:
    """The fix that all have in common, or each layer's own."""
    if len({case.fix for case in cases}) == 1:
        return cases[0].fix
    said = "; ".join(f"{case.layers[0]}: {case.fix}" for case in cases[:NAMED])
    return said + ("; ..." if len(cases) > NAMED else "")
