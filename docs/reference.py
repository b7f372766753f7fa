"""The reference, written from the code: commands, Python verbs, layers, activations, checks, rules
of advice.

A page holds `<!-- generated: NAME -->`, and `docs/hooks.py` puts GENERATED[NAME]() in its place.
Importing the command line and core is enough for all but the verbs, which load the whole package.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_type_hints

import typer

import convwise
from convwise.advice.recipes import RECIPE_RULES
from convwise.advice.rules import RULES
from convwise.cli.app import app
from convwise.core.activations import ACTIVATIONS
from convwise.core.check import CHECKS
from convwise.core.configuration import MEANING
from convwise.core.layers import LAYERS, parameters
from convwise.core.parameters import REQUIRED, Named, Parameter

Row = tuple[str, ...]


def commands() -> str:
    """Every command: how it is called, what it does, its arguments and options."""
    group = typer.main.get_command(app)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())  # type: ignore[attr-defined]


def _command(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=f"convwise {name}")
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    # Parameters as --help prints them
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [(code(typed), meaning) for typed, meaning in filter(None, records)]
    said = inspect.cleandoc(command.help or "")
    options = table(("option", "meaning"), rows)
    return f"## convwise {name}\n\n```text\n{usage}\n```\n\n{said}\n\n{options}"


def verbs() -> str:
    """Each public name, and below it what it returns where that is a record of ours, for
    mkdocstrings to draw.
    """
    returned: dict[str, Any] = {}
    shown = [getattr(convwise, name) for name in convwise.__all__]
    for each in shown:
        answer = get_type_hints(each).get("return") if inspect.isfunction(each) else None
        if inspect.isclass(answer) and answer.__module__.startswith("convwise."):
            returned[answer.__name__] = answer
    others = [answer for answer in returned.values() if answer not in shown]
    answers = "".join(f"\n\n{_drawn(each)}" for each in others)
    return "\n\n".join(map(_drawn, shown)) + f"\n\n## What they return{answers}"


def _drawn(each: Any) -> str:
    level = 2 if each.__name__ in convwise.__all__ else 3
    return f"::: {each.__module__}.{each.__qualname__}\n    options:\n      heading_level: {level}"


def layers() -> str:
    """Every layer with its parameters, as core/layers.py declares them."""
    return "\n\n".join(_layer(name) for name in LAYERS)


def _layer(name: str) -> str:
    columns = ("parameter", "default", "may be", "meaning")
    rows = [(code(p.name), _default(p), _legal(p), p.meaning) for p in parameters(LAYERS[name])]
    said = inspect.cleandoc(LAYERS[name].__doc__ or "")
    return f"## {name}\n\n{said}" + (f"\n\n{table(columns, rows)}" if rows else "")


def _default(parameter: Parameter[Any, Any]) -> str:
    return "must be given" if parameter.default is REQUIRED else code(repr(parameter.default))


def _legal(parameter: Parameter[Any, Any]) -> str:
    return "[an activation](activations.md)" if isinstance(parameter, Named) else parameter.legal


def activations() -> str:
    """Every activation: its arguments, what it computes."""
    rows = [(code(name), ", ".join(f"{key}={value:g}" for key, value in row.arguments.items()),
            code(row.meaning))
            for name, row in ACTIVATIONS.items()]  # fmt: skip
    return table(("activation", "arguments", "of x"), rows)


def checks() -> str:
    """Every check of `convwise check`."""
    rows = [(each.name, each.severity, _first(each.cases), each.source) for each in CHECKS]
    return table(("finding", "severity", "what it looks for", "source"), rows)


def _first(function: Callable[..., Any]) -> str:
    """The first paragraph of what a function says of itself, as one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def rules() -> str:
    """Every parameter that convwise advises, and where its rules come from, in the order in which
    they decide.
    """
    found: dict[str, list[str]] = {}
    for rule in RULES:
        found.setdefault(rule.parameter, []).append(rule.source)
    for recipe in RECIPE_RULES:
        found.setdefault(f"training.{recipe.parameter}", []).append(recipe.source)
    rows = [(code(name), MEANING.get(name, "of the training"), "; ".join(dict.fromkeys(sources)))
            for name, sources in found.items()]  # fmt: skip
    return table(("parameter", "meaning", "sources of its rules"), rows)


def table(columns: Row, rows: Iterable[Row]) -> str:
    """A Markdown table."""
    return "\n".join(_lines(columns, rows))


def _lines(columns: Row, rows: Iterable[Row]) -> Iterator[str]:
    for cells in (columns, ("---",) * len(columns), *rows):
        yield f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """On one line; a bar is escaped, in backquotes it need not be."""
    parts = " ".join(text.split()).split("`")
    return "`".join(part if i % 2 else part.replace("|", "\\|") for i, part in enumerate(parts))


def code(text: str) -> str:
    """In backquotes."""
    return f"`{text}`"


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "verbs": verbs,
    "layers": layers,
    "activations": activations,
    "checks": checks,
    "rules": rules,
}
