"""The house: who may import what, how large things are, where the tables stand, what is said of
each command.
"""

from __future__ import annotations

import ast
import graphlib
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

import convwise
from convwise.cli.app import app
from convwise.core.task import KINDS
from convwise.formats import FORMATS
from convwise.training.runners import RUNNERS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "convwise"
FILES = sorted(PACKAGE.rglob("*.py"))
EVERYTHING = frozenset({"*"})

# Everything may import core and its own room; core imports the standard library alone. Beyond that:
MAY_IMPORT: dict[str, frozenset[str]] = {
    "images": frozenset(),
    "advice": frozenset(),
    "formats": frozenset(),
    "training": frozenset({"formats"}),  # it builds the net that is handed over, by the same calls
    # The one experiment, on a bench of its own
    "evidence": frozenset({"images", "advice", "training", "formats"}),
    "search": frozenset({"evidence"}),
    "inspect": frozenset({"images", "advice", "formats"}),
    "output": EVERYTHING,
    "study": EVERYTHING,  # the sentence and the verbs: the files directly in the package
    "cli": EVERYTHING,
    # Of the package's own files it takes feed alone
    "web": frozenset({"images", "formats", "search", "output", "study"}),
}
TABLES: dict[str, str] = {
    "LAYERS": "core/layers.py",
    "ACTIVATIONS": "core/activations.py",
    "CHECKS": "core/check.py",
    "RULES": "advice/rules.py",
    "SOURCES": "images/sources/__init__.py",
    "STRATEGIES": "search/__init__.py",
    "TASKS": "training/tasks/__init__.py",
    "RUNNERS": "training/runners/__init__.py",
    "FORMATS": "formats/__init__.py",
}
MAX_FILE_LINES, MEDIAN_LINES, P90_LINES, MAX_ARGUMENTS = 500, 8, 30, 7
CORE_TURNS = 5.0  # million turns of an empty loop, about 0.1 s of a core of 2025


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room(module: str) -> str:
    """'convwise.formats.torch' -> 'formats'; 'study' for the files directly in the package, and for
    itself.
    """
    name = (*module.split("."), "")[1]
    return name if (PACKAGE / name / "__init__.py").is_file() and name else "study"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; `from package import module` counts as the
    module.
    """
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            package = PACKAGE.parent / str(node.module).replace(".", "/")
            for alias in node.names:
                inside = (package / alias.name).is_dir() or (package / f"{alias.name}.py").is_file()
                yield f"{node.module}.{alias.name}" if inside else str(node.module)


MODULE = re.compile(r"convwise(\.[a-z_]+)+")  # as given to import_module


def ours(path: Path) -> set[str]:
    """The modules of other rooms of ours that a file imports, or names as import_module takes
    them.
    """
    named = {
        node.value
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant)
        if is_module(node.value)
    }
    modules = {name for name in (*imported(path), *named) if name.split(".")[0] == "convwise"}
    return {name for name in modules if room(name) != room(module_of(path))}


def is_module(text: object) -> bool:
    place = PACKAGE.parent / str(text).replace(".", "/")
    found = isinstance(text, str) and MODULE.fullmatch(text)
    return bool(found) and (place.is_dir() or place.with_suffix(".py").is_file())


# The import law --------------------------------------------------------------------------------


def law_breaches(may_import: dict[str, frozenset[str]]) -> list[str]:
    breaches = []
    for path in FILES:
        mine = room(module_of(path))
        allowed = frozenset() if mine == "core" else may_import[mine] | {"core"}
        others = {room(name) for name in ours(path)}
        breaches += [
            f"{path.relative_to(ROOT)} imports {name}"
            for name in others - allowed
            if "*" not in allowed
        ]
    return breaches


def test_rooms_import_core_and_what_the_table_says():
    assert law_breaches(MAY_IMPORT) == []
    assert {room(module_of(path)) for path in FILES} == {"core", *MAY_IMPORT}


@pytest.mark.parametrize(
    "importer", [name for name, allowed in MAY_IMPORT.items() if allowed and "*" not in allowed]
)
def test_every_row_of_the_law_is_used(importer):
    """Also shows that the check can fail: without its row, each importer is a breach."""
    used = {
        room(name) for path in FILES if room(module_of(path)) == importer for name in ours(path)
    }
    assert used - {"core"} == MAY_IMPORT[importer]
    assert law_breaches({**MAY_IMPORT, importer: frozenset()}) != []


def door(name: str) -> set[str]:
    """The modules of a room that others may import: `__all__` of its `__init__`."""
    (value,) = assignments(PACKAGE / name / "__init__.py", "__all__")
    return set(ast.literal_eval(value))


@pytest.mark.parametrize("name", [name for name in MAY_IMPORT if name != "study"])
def test_others_come_in_by_the_door(name):
    used = {
        module.split(".")[2]
        for path in FILES
        for module in ours(path)
        if room(module) == name and module.count(".") > 1
    }
    assert used == door(name)


def private_names(path: Path) -> Iterator[str]:
    """Names with one underscore that a file takes from modules of other rooms, by import or as
    their attributes.
    """
    others, modules = ours(path), {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            modules.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom):
            modules.update(
                {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            )
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if node.module in others and alias.name.startswith("_")
            )
    for node in ast.walk(tree(path)):
        if (
            isinstance(node, ast.Attribute)
            and re.match(r"_[^_]", node.attr)
            and isinstance(node.value, ast.Name)
        ):
            module = modules.get(node.value.id)
            if module in others:
                yield f"{module}.{node.attr}"


def test_no_private_name_leaves_its_room():
    assert {
        f"{path.relative_to(ROOT)}: {name}" for path in FILES for name in private_names(path)
    } == set()


@pytest.mark.parametrize("taken", [
    "from convwise.core.layers import _layer",
    "from convwise.core import layers\nlayers._layer",
    "import convwise.core.layers as L\nL._layer",
])  # fmt: skip
def test_a_private_name_that_leaves_its_room_is_seen(taken, tmp_path, monkeypatch):
    file = tmp_path / "convwise" / "formats" / "thief.py"
    file.parent.mkdir(parents=True)
    file.write_text(taken + "\n")
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[__name__], "module_of", lambda path: "convwise.formats.thief")
        assert [*private_names(file)] == ["convwise.core.layers._layer"]


def test_data_moves_one_way():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(room(module_of(path)), set()).update(
            room(name) for name in ours(path) if "__main__" not in str(path)
        )
    assert list(graphlib.TopologicalSorter(graph).static_order())[0] == "core"


def test_core_is_standard_library_only():
    foreign = {
        f"{path.name}: {name}"
        for path in FILES
        if room(module_of(path)) == "core"
        for name in imported(path)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not name.startswith("convwise.core")
    }
    assert foreign == set()


LOADED = """
import json, sys, time
before = set(sys.modules)
started = time.process_time()
for _ in range(1_000_000):
    pass
turned = time.process_time()
import {modules}
seconds = time.process_time() - turned
roots = sorted({{name.split(".")[0] for name in set(sys.modules) - before}})
print(json.dumps([seconds / (turned - started), roots]))
"""


def loaded(*modules: str, cache: Path) -> tuple[float, set[str]]:
    """How long importing `modules` takes in a fresh interpreter, and the packages that it loads.

    The time is in million turns of an empty loop, which a slow or busy machine makes as much
    slower. cache: where bytecode is kept from run to run, as an installed package has it.
    """
    code = LOADED.format(modules=", ".join(modules))
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    env = {**kept, "PYTHONPYCACHEPREFIX": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    turns, roots = json.loads(done.stdout)
    return turns, set(roots)


def test_core_loads_nothing_foreign_and_fast(tmp_path):
    modules = [module_of(path) for path in FILES if room(module_of(path)) == "core"]
    runs = [loaded(*modules, cache=tmp_path) for _ in range(5)]
    assert runs[0][1] - set(sys.stdlib_module_names) == {"convwise"}
    assert min(turns for turns, _ in runs) < CORE_TURNS


@pytest.mark.parametrize("module", ["convwise", "convwise.cli.app"])
def test_the_doors_load_no_framework(module, tmp_path):
    assert (
        loaded(module, cache=tmp_path)[1]
        & {"numpy", "torch", "keras", "sklearn", "scipy", "optuna"}
        == set()
    )


def test_many_layers_are_taken_by_one_name():
    """As `from convwise.core import layers as L`, not in a list that many files repeat."""
    lists = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        and node.module == "convwise.core.layers"
        and node.end_lineno != node.lineno
    ]
    assert lists == []


# Tables ----------------------------------------------------------------------------------------


def assignments(path: Path, name: str) -> list[ast.expr | None]:
    """What is assigned to `name` in the module's own body."""
    found = []
    for node in tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            found += [
                node.value
                for target in targets
                if isinstance(target, ast.Name) and target.id == name
            ]
    return found


def changes(path: Path, name: str) -> list[int]:
    """Lines that change the table `name` in place: TABLE[...] = ..., TABLE.update(...), del
    TABLE[...].
    """
    lines = []
    for node in ast.walk(tree(path)):
        item = isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load)
        method = isinstance(node, ast.Attribute) and node.attr in {
            "update",
            "setdefault",
            "pop",
            "append",
            "clear",
        }
        if (item or method) and isinstance(node.value, ast.Name) and node.value.id == name:  # type: ignore[attr-defined]
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(("name", "file"), TABLES.items())
def test_tables_are_literals(name, file):
    (value,) = assignments(PACKAGE / file, name)
    assert isinstance(value, (ast.Dict, ast.Tuple)), f"{name} is built, not written"
    keys = value.keys if isinstance(value, ast.Dict) else value.elts
    assert keys
    assert None not in keys, f"{name} takes rows from elsewhere"
    assert not any(isinstance(row, (ast.Starred, ast.ListComp, ast.GeneratorExp)) for row in keys)
    assert [(path.name, line) for path in FILES for line in changes(path, name)] == []


# Sizes and words -------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def length(function: Function) -> int:
    """Lines of the body, without the docstring."""
    body = (
        function.body[1:]
        if ast.get_docstring(function) is not None and len(function.body) > 1
        else function.body
    )
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_files_are_short():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {file: n for file, n in lines.items() if n > MAX_FILE_LINES} == {}


def test_functions_are_short():
    lengths = sorted(length(node) for _, node in functions())
    assert statistics.median(lengths) <= MEDIAN_LINES
    assert lengths[int(0.9 * (len(lengths) - 1))] <= P90_LINES


def test_functions_take_few_arguments():
    """Commands and verbs are exempt: their arguments are the flags of the command line."""
    many = {}
    for where, node in functions():
        arguments = [
            a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        ]
        if (
            "/cli" not in where
            and "/verbs.py" not in where
            and "verb"
            not in [each.id for each in node.decorator_list if isinstance(each, ast.Name)]
            and len([a for a in arguments if a not in {"self", "cls"}]) > MAX_ARGUMENTS
        ):
            many[where] = arguments
    assert many == {}


def test_public_things_have_docstrings():
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in tree(path).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        if ast.get_docstring(node) is None
    ]
    assert bare == []
    assert [str(path) for path in FILES if ast.get_docstring(tree(path)) is None] == []


PRODUCT = [ROOT / name for name in ("src", "tests", "benchmarks", "examples", "docs", ".ci")]
TEXTS = {".py", ".md", ".toml", ".txt", ".j2", ".css", ".js", ".json", ""}
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(work|tmp|opt|home|root|mnt|Users)/\w+")
WRITING_TOOL = re.compile(
    r"\b(language model|LLM|chatbot|AI assistant|Co-Authored-By)\b", re.IGNORECASE
)


def texts() -> list[Path]:
    inside = [
        path for folder in PRODUCT for path in folder.rglob("*") if "__pycache__" not in path.parts
    ]
    # A worktree's .git is a file that names a folder of this machine
    kept_out = {Path(__file__), ROOT / ".git"}
    return [
        p
        for p in (*ROOT.glob("*"), *inside)
        if p.is_file() and p.suffix in TEXTS and p not in kept_out
    ]


@pytest.mark.parametrize(
    "pattern", [MACHINE_PATH, WRITING_TOOL], ids=["machine paths", "writing tools"]
)
def test_the_product_speaks_of_itself_only(pattern):
    said = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()[:100]}"
        for path in texts()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert said == []


def test_these_patterns_can_find():
    assert MACHINE_PATH.search("data in /home/me/photos")
    assert not MACHINE_PATH.search("https://example.org/home/page")
    assert WRITING_TOOL.search("written by a chatbot")


# The command line and the verbs ----------------------------------------------------------------

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_explained(name):
    command = COMMANDS[name]
    assert command.help
    unexplained = [
        p.name for p in command.params if not getattr(p, "help", None) and p.name != "help"
    ]
    assert unexplained == []
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(f"convwise {name}" in path.read_text() for path in documents)


@pytest.mark.parametrize(
    ("command", "option"), [("choose", "task"), ("choose", "runner"), ("export", "to")]
)
def test_an_option_names_every_row_of_its_table(command, option):
    table = {"task": KINDS, "runner": RUNNERS, "to": FORMATS}[option]
    (parameter,) = [each for each in COMMANDS[command].params if each.name == option]
    assert [name for name in table if not re.search(rf"\b{name}\b", parameter.help)] == []


@pytest.mark.parametrize("name", convwise.__all__)
def test_every_verb_stays_a_verb(name):
    """Also after its stage was loaded: importing a module binds its name in the package."""
    assert callable(getattr(convwise, name))
    assert callable(getattr(convwise, name))
    assert getattr(convwise, name).__doc__
