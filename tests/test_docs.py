"""The documents: their commands, targets, files and code exist and run."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

import convwise
from convwise.advice.recipes import RECIPE_RULES
from convwise.advice.rules import RULES
from convwise.cli.app import app
from studies import advice, part

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLES = ("LAYERS", "ACTIVATIONS", "RULES", "SOURCES", "STRATEGIES", "TASKS", "RUNNERS", "FORMATS")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
# A block that trains, or that needs a reader's own files, is read but not run.
UNRUN = re.compile(r"choose\(|photos")
WRITTEN = {"model_keras.py", "model_torch.py"}  # by `convwise choose`


def blocks(language: str) -> list[tuple[str, str]]:
    """(document, code) of every fenced block in a language."""
    found = [(path.name, *match) for path in DOCUMENTS for match in BLOCK.findall(path.read_text())]
    return [(name, code) for name, kind, code in found if kind == language]


def prose() -> str:
    return "\n".join(path.read_text() for path in DOCUMENTS)


def test_every_block_says_its_language():
    kinds = {match[0] for path in DOCUMENTS for match in BLOCK.findall(path.read_text())}
    assert kinds <= {"sh", "python", "text"}
    assert prose().count("```") == 2 * sum(len(blocks(kind)) for kind in kinds)


def test_every_make_target_exists():
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    named |= {word for _, code in blocks("sh") for word in re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)}
    assert {"demo", "test"} <= named <= targets


def command_lines() -> list[list[str]]:
    """Every `convwise ...` in a shell block or in backquotes, as words."""
    lines = [line for _, code in blocks("sh") for line in code.splitlines() if line.startswith("convwise ")]
    lines += re.findall(r"`(convwise [^`]+)`", prose())
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_every_command_line_is_understood(words):
    if words[1].startswith("--"):
        assert words[1] == "--help"
        return
    known = {flag for parameter in COMMANDS[words[1]].params for flag in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize(("document", "code"), blocks("sh"), ids=lambda value: value.split("\n")[0][:40])
def test_shell_blocks_parse(document, code):
    subprocess.run(["bash", "-n"], input=code, text=True, check=True)


@pytest.mark.parametrize(("document", "code"), blocks("python"), ids=lambda value: value.split("\n")[0][:40])
def test_python_blocks_run_or_compile(document, code, tmp_path, monkeypatch):
    compiled = compile(code, document, "exec")
    verbs = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "convwise"
    }
    assert verbs <= set(convwise.__all__)
    monkeypatch.chdir(tmp_path)
    if not UNRUN.search(code):
        exec(compiled, {"__name__": "document"})


def test_the_example_strategy_meets_the_contract():
    """The block in CONTRIBUTING is a whole strategy: it defines what the table's rows have."""
    (code,) = [code for name, code in blocks("python") if name == "CONTRIBUTING.md"]
    names: dict[str, object] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    propose, given = names["propose"], advice(shape=(16, 16, 1))
    samples = propose(given, [], 4, 0)
    assert 0 < len(samples) <= 4
    assert all(given.space.fit(sample) == sample for sample in samples)
    kept = [part(given, samples[0])]
    assert given.space.key(samples[0]) not in {given.space.key(sample) for sample in propose(given, kept, 4, 0)}


@pytest.mark.parametrize("table", TABLES)
def test_contributing_says_where_each_table_stands(table):
    (file,) = re.findall(rf"`{table}` in `([^`]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert re.search(rf"^{table}\b", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_named_file_exists(document):
    text = document.read_text()
    links = [document.parent / link for link in re.findall(r"\]\((?!http)([^)#]+)", text)]
    links += [ROOT / name for name in re.findall(r"`((?:src|tests|docs|benchmarks|examples)/[\w./]+)`", text)]
    assert [str(path) for path in links if not path.exists()] == []
    ours = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text)) - WRITTEN
    package = ROOT / "src" / "convwise"
    assert [name for name in ours if not (ROOT / name).exists() and not next(package.rglob(name), None)] == []


def test_the_changelog_has_this_version():
    assert f"\n## {convwise.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert f'\nversion = "{convwise.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("rule", [*RULES, *RECIPE_RULES], ids=lambda rule: getattr(rule, "choice", None) or rule.field)
def test_what_a_rule_cites_is_written_down(rule):
    """A rule that cites a finding in quotes cites words that stand there."""
    assert rule.source
    for file, words in re.findall(r"ours: (docs/\w+\.md), '([^']+)'", rule.source):
        said = re.sub(r"[\s*]+", " ", (ROOT / file).read_text())
        assert words.lower() in said.lower()
    assert all((ROOT / file).exists() for file in re.findall(r"docs/\w+\.md", rule.source))
