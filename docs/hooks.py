"""What mkdocs does beside its own work: puts in what is written from the code, and brings other
pages along.

The pages link to CONTRIBUTING.md and to the benchmarks as they lie in the repository; in the site
those are pages under repository/, and the links lead there.
"""

from __future__ import annotations

import posixpath
import re
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "docs")]  # the site is of this source

import reference  # noqa: E402

OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/*.md", "benchmarks/results/*.svg")
ALL = "all"
PLACE = "repository"  # where they are in the site
MARKER = re.compile(r"<!-- generated: (\w+) -->")
EFFECTS = re.compile(r"<!-- effects: ([\w.]+) -->")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def outside() -> list[str]:
    """The files that come along, as paths in the repository."""
    return sorted(str(path.relative_to(ROOT)) for pattern in OUTSIDE for path in ROOT.glob(pattern))


def written(text: str) -> str:
    """The text with every marker replaced by what stands for it."""
    text = MARKER.sub(lambda found: reference.GENERATED[found[1]](), text)
    return EFFECTS.sub(lambda found: effects(found[1]), text)


def effects(parameter: str) -> str:
    """The rows of benchmarks/effects.md on one parameter, without its name; of ALL, each with its
    extremes.
    """
    lines = (ROOT / "benchmarks" / "effects.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| parameter | change |"))
    # Other tables come after it
    table = takewhile(lambda line: line.startswith("|"), lines[lines.index(head) :])
    names, *rows = (_cells(line) for line in table if line.startswith("| "))
    if parameter == ALL:
        return reference.table(
            ("parameter", "change", "median", "worst", "best", "sets"), map(_summary, rows)
        )
    return reference.table(
        tuple(names[1:]), [tuple(row[1:]) for row in rows if row[0] == parameter]
    )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _summary(row: list[str]) -> tuple[str, ...]:
    """Parameter, change and median as they are; of the sets, the least and the most."""
    points = sorted(filter(None, row[3:]), key=float)
    return reference.code(row[0]), row[1], row[2], points[0], points[-1], str(len(points))


def place(path: str) -> str:
    """Where a file of the repository is in the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{PLACE}/{path}"


def moved(link: str, page: str) -> str:
    """A link in a page, both as in the repository, as a link between their places in the site."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return posixpath.relpath(place(target), posixpath.dirname(place(page)) or ".")


# --- called by mkdocs -----------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """The pages and pictures from outside docs/."""
    from mkdocs.structure.files import File

    for path in outside():
        files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """What is generated, put in; links, as the site has them."""
    uri = page.file.src_uri
    here = uri.removeprefix(f"{PLACE}/") if uri.startswith(f"{PLACE}/") else f"docs/{uri}"
    return LINK.sub(lambda found: moved(found[1], here), written(markdown))
