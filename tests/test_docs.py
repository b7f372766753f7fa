"""The documents: their commands, targets, files and code exist and run, print what is shown, and
make a site.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer

import convwise
from convwise import formats
from convwise.advice.recipes import RECIPE_RULES
from convwise.advice.rules import RULES
from convwise.cli import app as cli
from convwise.cli.app import app
from convwise.cli.console import out
from convwise.core import check as core_check
from convwise.core.activations import ACTIVATIONS
from convwise.core.goal import parse_goal
from convwise.core.layers import LAYERS, parameters
from convwise.core.net import Net
from convwise.output.whole import OUTPUTS
from studies import advice, segment

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path += [str(DOCS), str(ROOT / "benchmarks")]
import figures  # noqa: E402
import hooks  # noqa: E402
import reference  # noqa: E402

PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]
TABLES = ("LAYERS", "ACTIVATIONS", "RULES", "SOURCES", "STRATEGIES", "TASKS", "RUNNERS", "FORMATS")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
# A block that trains, or that needs a reader's own files, is read but not run.
UNRUN = re.compile(r"choose\(|photos")
WRITTEN = {name for name in formats.WRITTEN if name.endswith(".py")}  # by `convwise choose`
# Commands whose output is compared with what a page shows: within seconds, and the same everywhere.
QUICK = (
    "convwise layer ",
    "convwise look digits",
    "convwise advise digits ",
    "convwise check keras.applications:VGG16",
    "convwise check mine.keras",
)
SHOWN = re.compile(
    r"^```(sh|python)\n((?:(?!```).*\n)*)```\n\n```text\n((?:(?!```).*\n)*)```", re.MULTILINE
)
COLUMNS = "88"  # of the terminal that pages show


def blocks(language: str) -> list[tuple[str, str]]:
    """(document, code) of every fenced block in a language."""
    found = [
        (named(path), *match) for path in DOCUMENTS for match in BLOCK.findall(path.read_text())
    ]
    return [(name, code) for name, kind, code in found if kind == language]


def named(path: Path) -> str:
    """The document's path in the repository."""
    return str(path.relative_to(ROOT))


def prose() -> str:
    return "\n".join(path.read_text() for path in DOCUMENTS)


def test_every_block_says_its_language():
    kinds = {match[0] for path in DOCUMENTS for match in BLOCK.findall(path.read_text())}
    assert kinds <= {"sh", "python", "text"}
    assert prose().count("```") == 2 * sum(len(blocks(kind)) for kind in kinds)


def test_every_make_target_exists():
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    named |= {
        word
        for _, code in blocks("sh")
        for word in re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)
    }
    assert {"demo", "test"} <= named <= targets


def command_lines() -> list[list[str]]:
    """Every `convwise ...` in a shell block or in backquotes, as words."""
    lines = [
        line
        for _, code in blocks("sh")
        for line in code.splitlines()
        if line.startswith("convwise ")
    ]
    lines += re.findall(r"`(convwise [^`]+)`", prose())
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_every_command_line_is_understood(words):
    if words[1].startswith("--"):
        assert words[1] == "--help"
        return
    known = {flag for parameter in COMMANDS[words[1]].params for flag in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    for flag, value in pairwise(words):
        if flag == "--goal":
            parse_goal(value)


@pytest.mark.parametrize(
    ("document", "code"), blocks("sh"), ids=lambda value: value.split("\n")[0][:40]
)
def test_shell_blocks_parse(document, code):
    subprocess.run(["bash", "-n"], input=code, text=True, check=True)


@pytest.mark.parametrize(
    ("document", "code"), blocks("python"), ids=lambda value: value.split("\n")[0][:40]
)
def test_python_blocks_run_or_compile(document, code, tmp_path, monkeypatch):
    compiled = compile(code, document, "exec")
    verbs = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "convwise"
    }
    assert verbs <= set(convwise.__all__)
    monkeypatch.chdir(tmp_path)
    # Those are run below
    if not UNRUN.search(code) and code not in [each for _, each, _ in shown("python")]:
        exec(compiled, {"__name__": "document"})


def shown(language: str) -> list[tuple[str, str, str]]:
    """(document, code, output) of the blocks in a language that a page shows the output of, where
    it is quick.
    """
    found = [
        (named(path), *match) for path in DOCUMENTS for match in SHOWN.findall(path.read_text())
    ]
    return [
        (name, code, output) for name, kind, code, output in found
        if kind == language and not UNRUN.search(code)
        and (kind == "python" or all(line.startswith(QUICK) for line in code.splitlines()))
    ]  # fmt: skip


def before(document: str, code: str) -> str:
    """The Python block right above a shell block: it writes the files that its commands read."""
    text = (ROOT / document).read_text()
    found = re.search(
        r"^```python\n((?:(?!```).*\n)*)```\n\n```sh\n" + re.escape(code) + "```",
        text,
        re.MULTILINE,
    )
    return found[1] if found else ""


def is_said(shown: str, printed: str) -> bool:
    """Whether these lines were printed, and no others; '...' stands for any lines."""
    lines = [
        r"(?:.*\n)*?" if line == "..." else re.escape(line) + " *\n" for line in shown.splitlines()
    ]
    return re.fullmatch("".join(lines), printed) is not None


def test_output_is_compared_line_by_line():
    printed = "a\nb\nc\nd\n"
    assert is_said("a\n...\nd\n", printed)
    assert is_said("...\nb\nc\n...\n", printed)
    assert not any(
        is_said(text, printed)
        for text in ("a\nb\nc\n", "a\n...\nb\nd\n", "...\nb\na\n...\n", "a\n...\ne\n")
    )


@pytest.mark.parametrize(
    ("document", "code", "output"), shown("sh"), ids=lambda value: value.split("\n")[0][:60]
)
def test_commands_print_what_is_shown(document, code, output, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    if made := before(document, code):
        from keras import utils

        utils.clear_session()  # or layers are numbered on from those of other tests
        exec(compile(made, document, "exec"), {"__name__": "document"})
    monkeypatch.setenv("COLUMNS", COLUMNS)
    # main() shall not set them for other tests
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    for line in code.splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
        out.cache_clear()  # it knows the width of the terminal
        with pytest.raises(SystemExit):
            cli.main()
    out.cache_clear()
    said = capsys.readouterr()
    assert is_said(output, said.out + said.err), said.out + said.err


@pytest.mark.parametrize(
    ("document", "code", "output"), shown("python"), ids=lambda value: value.split("\n")[0][:40]
)
def test_python_prints_what_is_shown(document, code, output, capsys):
    exec(compile(code, document, "exec"), {"__name__": "document"})
    assert is_said(output, capsys.readouterr().out)


def test_enough_output_is_compared():
    assert len(shown("sh")) > 25
    assert len(shown("python")) > 3
    compared = [line for _, code, _ in shown("sh") for line in code.splitlines()]
    assert [words for words in QUICK if not any(line.startswith(words) for line in compared)] == []


def test_the_example_strategy_meets_the_contract():
    """The block in CONTRIBUTING is a whole strategy: it defines what the table's rows have."""
    (code,) = [code for name, code in blocks("python") if name == "CONTRIBUTING.md"]
    names: dict[str, object] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    propose, given = names["propose"], advice(shape=(16, 16, 1))
    configurations = propose(given, [], 4, 0)
    assert 0 < len(configurations) <= 4
    assert all(given.space.fit(configuration) == configuration for configuration in configurations)
    kept = [segment(given, configurations[0])]
    assert given.space.fit(configurations[0]).key not in {
        given.space.fit(configuration).key for configuration in propose(given, kept, 4, 0)
    }


@pytest.mark.parametrize("table", TABLES)
def test_contributing_says_where_each_table_stands(table):
    (file,) = re.findall(rf"`{table}` in `([^`]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert re.search(rf"^{table}\b", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", OUTPUTS)
def test_the_page_of_the_choice_folder_names_every_file_in_it(file):
    assert (
        f"`{file}`" in (DOCS / "concepts" / "folder.md").read_text().partition("\n\nThe models")[0]
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_named_file_exists(document):
    text = document.read_text()
    links = [document.parent / link for link in re.findall(r"\]\((?!http)([^)#]+)", text)]
    links += [
        ROOT / name
        for name in re.findall(r"`((?:src|tests|docs|benchmarks|examples)/[\w./]+)`", text)
    ]
    assert [str(path) for path in links if not path.exists()] == []
    ours = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text)) - WRITTEN
    package = ROOT / "src" / "convwise"
    assert [
        name for name in ours if not (ROOT / name).exists() and not next(package.rglob(name), None)
    ] == []


# --- the site -----------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """What a link may name in a document after '#', as Python-Markdown makes it of the headings."""
    text = re.sub(
        r"^```.*?^```", "", hooks.written(path.read_text()), flags=re.MULTILINE | re.DOTALL
    )
    plain = [
        re.sub(r"[^\w\s-]", "", title).strip().lower()
        for title in re.findall(r"^#+ (.*)", text, re.MULTILINE)
    ]
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


def links() -> Iterator[tuple[Path, str, str]]:
    """(document, target, anchor) of every link with an anchor from one document to another, or
    inside one.
    """
    for path in DOCUMENTS:
        for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#([^)\s]+)\)", path.read_text()):
            yield path, target, anchor


@pytest.mark.parametrize(
    ("document", "target", "anchor"), links(), ids=lambda value: str(value)[-40:]
)
def test_every_link_finds_its_heading(document, target, anchor):
    assert anchor in anchors((document.parent / target) if target else document)


def test_the_navigation_has_every_page():
    found = re.findall(r"[ :]([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    there = [named(path).removeprefix("docs/") for path in PAGES]
    brought = [hooks.place(path) for path in hooks.outside() if path.endswith(".md")]
    assert sorted(found) == sorted(there + brought)


def test_links_lead_to_the_same_file_in_the_site():
    assert hooks.moved("../CONTRIBUTING.md", "docs/architecture.md") == "repository/CONTRIBUTING.md"
    assert hooks.moved("docs/architecture.md", "CONTRIBUTING.md") == "../architecture.md"
    assert hooks.moved("results/a.svg", "benchmarks/README.md") == "results/a.svg"
    assert hooks.moved("../concepts/test.md", "docs/reference/layers.md") == "../concepts/test.md"


def test_every_marker_is_replaced():
    for path in PAGES:
        text = hooks.written(path.read_text())
        assert "<!--" not in text
        assert all(
            len(hooks.effects(name).splitlines()) > 2
            for name in hooks.EFFECTS.findall(path.read_text())
        )
    assert {name for path in PAGES for name in hooks.MARKER.findall(path.read_text())} == set(
        reference.GENERATED
    )


def test_effects_are_those_of_the_benchmark():
    """Every number of a parameter's table stands in benchmarks/effects.md in this row, and none is
    left out.
    """
    told = (ROOT / "benchmarks" / "effects.md").read_text()
    rows = [line for line in told.splitlines() if line.startswith("| padding |")]
    assert hooks.effects("padding").splitlines()[2:] == [
        row.replace("| padding ", "", 1).rstrip() for row in rows
    ]
    (worst,) = re.findall(
        r"`block` \| pooled to residual \| \S+ \| (\S+) \|", hooks.effects(hooks.ALL)
    )
    (row,) = [line for line in told.splitlines() if line.startswith("| block |")]
    assert float(worst) == min(float(cell) for cell in row.split("|")[4:-1] if cell.strip())


def test_the_pictures_show_the_effects_as_they_are(tmp_path, monkeypatch):
    """`python docs/figures.py` would draw the same points and intervals."""
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    figures.main()
    drawn = {
        path.name: re.findall(r'aria-label="([^"]*)"', path.read_text())
        for path in tmp_path.iterdir()
    }
    kept = {
        path.name: re.findall(r'aria-label="([^"]*)"', path.read_text())
        for path in DOCS.glob("parameters/*.svg")
    }
    assert len(drawn) > 10
    assert drawn == kept


@pytest.mark.parametrize(
    ("px", "advised"),
    [
        (12, {"stem.kernel_size": 3, "stem.strides": 1, "block": "residual", "activation": "relu",
        "stage.widening": 2,
              "head": "GlobalAveragePooling2D"}),
        (32, {"stem.kernel_size": 2, "stem.strides": 1, "block": "pooled", "activation": "gelu",
        "stage.widening": 4,
              "head": "GlobalMaxPooling2D", "stage.count": 3}),
        (64, {"stem.kernel_size": 2, "stem.strides": 2, "block": "pooled", "activation": "gelu",
        "stage.count": 3}),
    ],
)  # fmt: skip
def test_the_pages_on_parameters_say_what_is_advised(px, advised):
    """What docs/parameters/ says of small, middle and large images; a rule that changes is told
    there too.
    """
    usual = {"stage.kernel_size": 3, "stage.convs": 2, "padding": "same",
             "downsampling": "MaxPooling2D",
             "normalization": "BatchNormalization"}  # fmt: skip
    given = advice(shape=(px, px, 3))
    assert {name: given.configuration[name] for name in usual | advised} == usual | advised
    assert 5 in given.space["stage.kernel_size"].values
    assert {"strides", "AveragePooling2D"} < set(given.space["downsampling"].values)


def test_the_reference_has_every_command_and_option():
    text = reference.commands()
    for name, command in COMMANDS.items():
        section = text[text.index(f"## convwise {name}\n") :].split("\n## ")[0]
        assert all(
            parameter.help in " ".join(section.replace("\\|", "|").split())
            for parameter in command.params
        )
        assert all(
            flag in section
            for parameter in command.params
            for flag in parameter.opts
            if flag.startswith("-")
        )


def test_the_reference_has_every_layer_and_parameter():
    text = reference.layers()
    for name, kind in LAYERS.items():
        section = text[text.index(f"## {name}\n") :].split("\n## ")[0]
        assert all(
            f"| `{each.name}` |" in section and each.meaning in section for each in parameters(kind)
        )


def test_the_reference_has_every_row_of_the_tables():
    assert all(f"| `{name}` |" in reference.activations() for name in ACTIVATIONS)
    assert all(
        f"| {check.name} | {check.severity} |" in reference.checks() for check in core_check.CHECKS
    )
    assert all(f"| `{rule.parameter}` |" in reference.rules() for rule in RULES)
    assert all(f"| `training.{rule.parameter}` |" in reference.rules() for rule in RECIPE_RULES)
    assert all(
        re.search(rf"^::: convwise\.[\w.]+\.{name}$", reference.verbs(), re.MULTILINE)
        for name in convwise.__all__
    )


def test_the_example_check_works(monkeypatch):
    """The block in docs/extend.md is a whole check: it finds what it says, and its fix is an
    edit.
    """
    (code,) = [code for name, code in blocks("python") if name == "docs/extend.md"]
    names: dict[str, object] = {}
    exec(compile(code, "docs/extend.md", "exec"), names)
    monkeypatch.setattr(core_check, "CHECKS", (*core_check.CHECKS, names["row"]))
    net = Net((8, 8, 3), (LAYERS["Conv2D"](filters=1, kernel_size=3, name="one"),))
    (found,) = [finding for finding in core_check.findings(net) if finding.rule == "single filter"]
    assert found.layers == ("one",)
    assert found.edits


def builder() -> str | None:
    """The Python that has mkdocs: that of `make docs`, or else this one."""
    own = ROOT / ".venv-docs" / "bin" / "python"
    return (
        str(own) if own.exists() else sys.executable if importlib.util.find_spec("mkdocs") else None
    )


@pytest.mark.slow
@pytest.mark.skipif(builder() is None, reason="mkdocs is not installed: make docs installs it")
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = [builder(), "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=\"?(https?:[^\s\">]+)",
            page.read_text(),
        )
        assert loaded == [], page


# --- what the documents say ---------------------------------------------------------------------


def test_the_changelog_has_this_version():
    assert f"\n## {convwise.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert f'\nversion = "{convwise.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("rule", [*RULES, *RECIPE_RULES], ids=lambda rule: rule.parameter)
def test_what_a_rule_cites_is_written_down(rule):
    """A rule that cites a finding in quotes cites words that stand there."""
    assert rule.source
    for file, words in re.findall(r"ours: (docs/\w+\.md), '([^']+)'", rule.source):
        said = re.sub(r"[\s*]+", " ", (ROOT / file).read_text())
        assert words.lower() in said.lower()
    assert all((ROOT / file).exists() for file in re.findall(r"docs/\w+\.md", rule.source))
