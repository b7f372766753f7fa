"""NAME=VALUE, or nothing said -> edits of a network, named as they can be typed again.

NAME is a hyperparameter of the space that the network grew from ('stage.kernel_size'), a parameter
of one layer ('stage2_conv1.kernel_size'), or of all convolutions at once ('kernel_size').
Parameters of layers can be changed together: 'stem.filters=32 & stage1_conv2.filters=32'. With an &
all names are of layers, also the last: 'stem.kernel_size=5 &' is of the layer where the space has a
hyperparameter of this name.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from convwise.core import layers as L
from convwise.core.calculus import analyse
from convwise.core.configuration import Configuration
from convwise.core.net import Net
from convwise.core.parameters import FIVE
from convwise.core.problems import ConvwiseError, Infeasible, UnusableInput
from convwise.core.records import Recipe, from_json
from convwise.core.space import Hyperparameter, Space
from convwise.core.text import times
from convwise.evidence.records import Edit

# What a report says of a network beside them, by the names of the space; what decides most comes
# first.
BESIDE = ("normalization", "stage.convs", "stage.count", "downsampling", "head")
FLAG = "--parameter"
AND = "&"
ALTERNATIVES = 2  # values of one hyperparameter that are tried unasked
CONVOLUTIONS = (L.Conv2D, L.DepthwiseConv2D, L.SeparableConv2D)
ENDS = ("linear", "softmax", "sigmoid")  # activations of an answer, which are not varied


@dataclass(frozen=True)
class Subject:
    """What is edited: a network, and where a study chose it, its configuration there.

    recipe: how it was trained, or None where that is not known.
    """

    net: Net
    recipe: Recipe | None = None
    configuration: Configuration | None = None

    @property
    def space(self) -> Space | None:
        """Where a study chose it from."""
        return self.configuration.space if self.configuration else None

    @property
    def hyperparameters(self) -> Mapping[str, Hyperparameter]:
        """The hyperparameters of the space, by name; none without a space."""
        return {each.name: each for each in self.space.hyperparameters} if self.space else {}


def named(subject: Subject, text: str) -> Edit:
    """The edit that 'NAME=VALUE' asks for.

    UnusableInput where there is no such name or value, or where it changes nothing; ShapeError
    where the edited layers do not fit.
    """
    if AND in text:
        return _together(subject, text)
    name, value = _parted(subject, text)
    if name in subject.hyperparameters:
        return _of_space(subject, name, value)
    layer, _, parameter = name.rpartition(".")
    if layer:
        _check_name(subject, layer, parameter)
        return _edited(subject, {layer: parameter}, name, value)
    if name in FIVE:
        return _of_all(subject, name, value)
    raise _unknown(subject, name)


def _parted(subject: Subject, text: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise UnusableInput(FLAG, f"is {text!r}", "NAME=VALUE, such as " + _example(subject))
    return name, value


def questions(subject: Subject, evidence: Sequence[Mapping[str, Any]] = ()) -> list[Edit]:
    """What is worth asking, in this order: the five parameters of the question, what else a report
    says of a network, further values of both, then each layer; in each of these the most doubtful
    first.

    evidence: effects told before, as choice.json has them (parameter, to, verdict). What they
    resolved comes last. Edits that cannot be are left out.
    """
    five = [row for parameter in FIVE for row in _general(subject, parameter)]
    named_here = [name for name in BESIDE if name in subject.hyperparameters]
    beside = [list(_possible(subject, _nearest(subject, name))) for name in named_here]
    first, besides = ([row[0] for row in rows if row] for rows in (five, beside))
    further = _turns([row[1:] for row in (*five, *beside)])
    asked = (*first, *besides, *further)
    usual = {edit.net.id for edit in asked if edit.recipe in (None, subject.recipe)}
    single = [edit for edit in _each_layer(subject) if edit.net.id not in usual]
    sections = enumerate((first, besides, further, single))
    rows = [
        (_doubt(edit, evidence), section, edit) for section, edits in sections for edit in edits
    ]
    rows.sort(key=lambda row: (row[0] == RESOLVED, row[1], row[0]))
    return [edit for *_, edit in rows]


# What is asked for --------------------------------------------------------------------------------


def _of_space(subject: Subject, name: str, text: str) -> Edit:
    """One hyperparameter of the space, and nothing else, at another value."""
    assert subject.configuration
    hyperparameter, before = subject.hyperparameters[name], subject.configuration
    value, where, now = _legal(hyperparameter, text), f"{FLAG} {name}={text}", before[name]
    try:
        after = before.space.fit({**before, name: value})
    except Infeasible as error:
        raise UnusableInput(where, error.problem.what, error.problem.expected) from error
    if others := [each for each in after if after[each] != before[each] and each != name]:
        changes = ", ".join(f"{each} {before[each]} -> {after[each]}" for each in others)
        what = f"would also change {changes}, to keep the goal's limits"
        expected = f"a value that changes nothing else (it is {now} now)"
        raise UnusableInput(where, what, expected)
    if after[name] != value:
        legal = ", ".join(map(str, hyperparameter.legal))
        raise UnusableInput(where, f"would become {after[name]}", f"one of {legal}")
    if after.key == (subject.net.id, subject.recipe):
        same = f"gives the same network as {name}={now}"
        what = "is what the network already has" if value == now else same
        other = ", ".join(str(each) for each in hyperparameter.legal if each != now)
        expected = f"another value, such as {other}" if other else "another value"
        raise UnusableInput(where, what, expected)
    return Edit(name, after.net, before[name], value, after.recipe, dict(after))


def _legal(hyperparameter: Hyperparameter, text: str) -> Any:
    """What a text says, as a value of the hyperparameter: one that is listed, or another number."""
    for value in hyperparameter.legal:
        if str(value).lower() == text.lower():
            return value
    kind = type(hyperparameter.legal[0])
    try:
        if kind in (int, float):
            return kind(text)
    except ValueError:
        pass
    listed = ", ".join(map(str, hyperparameter.legal))
    raise UnusableInput(f"{FLAG} {hyperparameter.name}", f"is {text!r}", f"one of {listed}")


def _check_name(subject: Subject, name: str, parameter: str) -> None:
    layer = next((layer for layer in subject.net.layers if layer.name == name), None)
    if layer is None or parameter not in (declared := [each.name for each in L.parameters(layer)]):
        raise _unknown(subject, f"{name}.{parameter}", declared if layer else ())


def _together(subject: Subject, text: str) -> Edit:
    """Parameters of layers at other values, all at once: one alone need not fit."""
    net, names, before, after = subject.net, [], [], []
    for part in list(filter(str.strip, text.split(AND))) or [text]:
        name, value = _parted(subject, part)
        layer, _, parameter = name.rpartition(".")
        _check_name(subject, layer, parameter)
        net = _set(net, layer, parameter, value, f"{FLAG} {text}")
        names.append(name)
        before.append(str(plain(getattr(subject.net[layer], parameter))))
        after.append(str(plain(getattr(net[layer], parameter))))
    if net.id == subject.net.id:
        raise UnusableInput(f"{FLAG} {text}", "is what the network already has", "other values")
    analyse(net)
    joint = f" {AND} "
    return Edit(joint.join(names), net, joint.join(before), joint.join(after))


def _of_all(subject: Subject, parameter: str, text: str) -> Edit:
    """One parameter of all convolutions that it bears on; filters also times: 'x2', 'x0.5'."""
    layers = [layer for layer in subject.net.layers if _bears_on(parameter, layer)]
    if not layers:
        what = f"no layer of this network has a {parameter} to change"
        raise UnusableInput(FLAG, what, "another parameter")
    return _edited(subject, {layer.name: parameter for layer in layers}, parameter, text)


def _bears_on(parameter: str, layer: L.Layer) -> bool:
    """Whether a change everywhere means this layer too; 1x1 kernels mix channels, and stay so."""
    if parameter == "activation":
        return isinstance(layer, (*CONVOLUTIONS, L.Activation)) and layer.activation not in ENDS
    if not isinstance(layer, CONVOLUTIONS) or not hasattr(layer, parameter):
        return False
    return parameter not in ("kernel_size", "padding") or layer.kernel_size != (1, 1)


def _edited(subject: Subject, which: Mapping[str, str], name: str, text: str) -> Edit:
    """The edit of these parameters (layer -> parameter), all to one value; refused if none."""
    net, where = subject.net, f"{FLAG} {name}={text}"
    before = [getattr(net[layer], parameter) for layer, parameter in which.items()]
    changed = net
    for layer, parameter in which.items():
        changed = _set(changed, layer, parameter, text, where)
    if changed.id == net.id:
        raise UnusableInput(where, "is what the network already has", "another value")
    analyse(changed)
    same = len(set(map(repr, before))) == 1
    layer, parameter = next(iter(which.items()))
    several = _is_factor(text) and len(which) > 1
    after = text if several else plain(getattr(changed[layer], parameter))
    return Edit(name, changed, plain(before[0]) if same else "as it is", after)


def _set(net: Net, layer: str, parameter: str, text: str, where: str) -> Net:
    try:
        return net.edit(layer, **{parameter: _value(text, getattr(net[layer], parameter))})
    except UnusableInput as error:
        what = f"{text} is not a possible {parameter}"
        raise UnusableInput(where, what, error.problem.expected) from error


def _value(text: str, now: Any) -> Any:
    """'5' -> 5, '3,5' and '3x5' -> (3, 5), 'true' -> True, 'same' -> 'same'; 'x2' -> 2 `now`."""
    if _is_factor(text) and isinstance(now, int):
        return max(round(now * float(text[1:])), 1)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return literal_eval(text.replace("x", ","))
    except (ValueError, SyntaxError):
        return text


def _is_factor(text: str) -> bool:
    return text.startswith("x") and text[1:].replace(".", "", 1).isdigit()


def plain(value: Any) -> Any:
    """(5, 5) -> 5: as it is typed."""
    is_pair = isinstance(value, tuple) and len(value) == 2
    return value[0] if is_pair and value[0] == value[1] else value


def _unknown(subject: Subject, name: str, declared: Sequence[str] = ()) -> UnusableInput:
    """No such name: the nearest real ones."""
    layer, _, parameter = name.rpartition(".")
    if declared:
        near = get_close_matches(parameter, declared, 3, 0.5) or declared
        expected = " or ".join([f"{layer}.{each}" for each in near][:8])
        return UnusableInput(f"{FLAG} {name}", f"{layer} has no {parameter}", expected)
    single = (f"{each.name}.{p.name}" for each in subject.net.layers for p in L.parameters(each))
    # Each once: the stem is a layer and a hyperparameter
    real = dict.fromkeys((*subject.hyperparameters, *single, *FIVE))
    near = get_close_matches(name, real, 3, 0.5)
    expected = " or ".join(near) or "NAME such as " + _example(subject)
    return UnusableInput(f"{FLAG} {name}", "names nothing that can be changed here", expected)


def _example(subject: Subject) -> str:
    conv = next((layer.name for layer in subject.net.layers if isinstance(layer, L.Conv2D)), "")
    name, examples = "stage.kernel_size", [f"{conv}.kernel_size=5" if conv else "dense.units=32"]
    if found := subject.hyperparameters.get(name):
        examples.insert(0, f"{name}={found.values[-1]}")
    return " or ".join(examples)


# What is asked unasked ----------------------------------------------------------------------------


def _general(subject: Subject, parameter: str) -> Iterator[list[Edit]]:
    """A parameter of the question at other values: a row for each such hyperparameter of the space,
    else of all convolutions at once.
    """
    names = [name for name in subject.hyperparameters if name.rpartition(".")[2] == parameter]
    rows = [list(_possible(subject, _nearest(subject, name))) for name in names]
    if any(rows):
        yield from rows
    elif layer := next((each for each in subject.net.layers if _bears_on(parameter, each)), None):
        # Other strides of every layer at once would be nonsense
        where = f"{layer.name}." if parameter == "strides" else ""
        texts = [f"{where}{parameter}={value}" for value in _next(parameter, layer)]
        yield list(_possible(subject, texts))


def _each_layer(subject: Subject) -> Iterator[Edit]:
    for layer in subject.net.layers:
        asked = [parameter for parameter in FIVE if _bears_on(parameter, layer)]
        texts = [f"{layer.name}.{name}={value}" for name in asked for value in _next(name, layer)]
        yield from _possible(subject, texts)


def _possible(subject: Subject, texts: Sequence[str]) -> Iterator[Edit]:
    for text in texts:
        try:
            yield named(subject, text)
        except ConvwiseError:
            continue


def _nearest(subject: Subject, name: str) -> list[str]:
    """A few other values of a hyperparameter, as typed; of numbers one on each side first."""
    assert subject.configuration
    now = subject.configuration[name]
    others = [value for value in subject.hyperparameters[name].values if value != now]
    if isinstance(now, (int, float)) and not isinstance(now, bool):
        above = sorted(value for value in others if value > now)  # type: ignore[operator]
        below = sorted((value for value in others if value < now), reverse=True)  # type: ignore[operator]
        others = [*above[:1], *below[:1], *above[1:], *below[1:]]
    return [f"{name}={value}" for value in others[:ALTERNATIVES]]


def _next(parameter: str, layer: L.Layer) -> list[str]:
    """Texts of the values next to what a layer has."""
    if parameter == "filters":
        return ["x2", "x0.5"]
    now = getattr(layer, parameter)
    if parameter == "kernel_size":
        return [times(n + step for n in now) for step in (2, -2) if min(now) + step > 1]
    if parameter == "strides":
        return ["2"] if now == (1, 1) else ["1"]
    if parameter == "padding":
        return ["valid"] if now == "same" else ["same"]
    return ["relu"] if now != "relu" else ["gelu"]


def _turns(rows: Sequence[Sequence[Edit]]) -> list[Edit]:
    """The first of each row, then the second of each."""
    longest = max(map(len, rows), default=0)
    return [row[turn] for turn in range(longest) for row in rows if turn < len(row)]


RESOLVED = 3


def _doubt(edit: Edit, evidence: Sequence[Mapping[str, Any]]) -> int:
    """0: nothing is known of the parameter; 1: not resolved; 2: another value was; 3: resolved."""
    told = [row for row in evidence if row["parameter"] == edit.parameter]
    same = [row for row in told if plain(from_json(Any, row["to"])) == edit.after]
    if not told:
        return 0
    if not same:
        return 2
    return 1 if same[-1]["verdict"] == "not resolved" else RESOLVED
