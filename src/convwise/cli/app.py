"""The command line: one door to the study."""

from __future__ import annotations

import atexit
import io
import json
import os
import shlex
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from convwise.cli import check as cli_check
from convwise.cli import layer as cli_layer
from convwise.cli import measure as cli_measure
from convwise.cli import predict as cli_predict
from convwise.cli import serve as cli_serve
from convwise.cli.console import err, out, table, watching
from convwise.cli.reading import (
    CacheOption,
    ClassesOption,
    DirArgument,
    LinksOption,
    SkipOption,
    TaskOption,
    path_of,
)
from convwise.core.clock import MINIMUM_SECONDS, STARTED
from convwise.core.defaults import EVIDENCE, MOST_EVIDENCE, MOST_WORKERS, TEST_SHARE
from convwise.core.goal import USUAL
from convwise.core.places import CACHE_SIZE
from convwise.core.problems import (
    ConvwiseError,
    UnusableInput,
    of_the_machine,
    refuse_little_memory,
)
from convwise.core.text import number, times
from convwise.formats import FORMATS
from convwise.training.runners import RUNNERS

if TYPE_CHECKING:
    from rich.table import Table


class Commands(TyperGroup):
    """The commands."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # none of them answers it, and typer would end without a word
            err().print("convwise: interrupted; nothing was written", highlight=False)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

IMAGES_HELP = (
    "Class folders (with or without train/ val/ test/ above them), a zip or tar of them, a .csv of"
    " paths and labels, an .npz (x_train, y_train, ... or train_images, train_labels, ...), a"
    " folder of IDX files, or of Parquet files with pictures inside (as Hugging Face writes them),"
    " or the name 'digits'."
)
ImagesArgument = Annotated[
    str, typer.Argument(metavar="IMAGES", help=IMAGES_HELP, show_default=False)
]
GOAL_HELP = (
    "What to optimise, and within which limits: 'accuracy where latency<2ms and macs<5M and"
    " params<100k'. The default is accuracy, or error with --task regress. Or name the cost to"
    " minimise and the accuracy to keep: 'macs where accuracy>=97%', 'latency where"
    f" {USUAL['accuracy']}', where best is the accuracy of the best network found. 'cheapest' is"
    f" short for 'macs where {USUAL['accuracy']}'. In place of accuracy: balanced_accuracy or"
    " macro_f1, which give every class the same weight, however few images it has. With --task"
    " regress: 'macs where error<=3.5', in the unit of the target (of several numbers, in standard"
    f" deviations), or 'macs where {USUAL['error']}', which is what 'cheapest' means there. Limits:"
    " latency (us, ms, s; batch 1, one thread), macs (multiply-accumulates; k, M, G), params (k,"
    " M), activation_bytes (kB, MB, KiB, MiB)."
)
GoalOption = Annotated[str | None, typer.Option(help=GOAL_HELP)]
TEST_HELP = (
    "Share of the images to seal: held out as the test set and scored once, at the end."
    f" Default {TEST_SHARE} where the source has no test set of its own; 'none' seals nothing."
)
TestOption = Annotated[str | None, typer.Option(help=TEST_HELP)]
SeedOption = Annotated[int, typer.Option(help="Seed for everything random.")]
JSON_HELP = "Print JSON on standard output, for programs; progress goes to stderr as JSON lines."
JsonOption = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
BUDGET_HELP = (
    f"Wall clock from start to the written folder: 90s, 10m, 1h30m; at least {MINIMUM_SECONDS:g}s."
)
BudgetOption = Annotated[str, typer.Option(help=BUDGET_HELP)]
PLANNED_HELP = (
    "The budget that you would give `choose`, so that the answer fits it: 90s, 10m, 1h30m."
)
PlannedOption = Annotated[str, typer.Option("--budget", help=PLANNED_HELP)]
AGAINST_HELP = (
    "Another network, trained for the same time and compared with the chosen one: a file, folder or"
    " package.module:callable as for `check`, or a well-known one: lenet5, keras-mnist, expert. Can"
    " be repeated."
)
VIEWS_HELP = (
    "How many views of each image the network looks at: with 2 it averages its answers to the image"
    " and to its mirror image, at twice the macs. auto takes 2 if the network was trained on"
    " mirrored images, the goal does not ask for a low cost, and the validation images do not show"
    " that 2 is worse."
)
RUNNER_HELP = "; ".join(f"{name}, {place.said}" for name, place in RUNNERS.items())
RUNNER_HELP = f"Where trials run: {RUNNER_HELP}."
TO_HELP = "One of " + ", ".join(FORMATS) + "."


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"convwise {metadata.version('convwise')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Choose the parameters of 2D convolutional networks from your own images, with evidence.

    Exit codes: 0 done; 1 done, but a check found an error, a limit cannot be met, or no network
    is better than guessing; 2 wrong usage or unusable input; 130 interrupted before there was
    anything to write.
    """
    if context.invoked_subcommand != "layer":  # which loads none of the large libraries
        refuse_little_memory()


@app.command(short_help="Choose a network for IMAGES by experiment, and write it.")
def choose(
    images: ImagesArgument,
    budget: BudgetOption = "10m",
    goal: GoalOption = None,
    task: TaskOption = "classify",
    test: TestOption = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=path_of,
            help="Folder to write; by default convwise-NAME, after the images.",
        ),
    ] = None,
    seed: SeedOption = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            help=(
                "Processes that train side by side; by default one per core, at most"
                f" {MOST_WORKERS}."
            )
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help=(
                "Run this many trials instead of going by the clock; with one worker, the choice is"
                " always the same."
            )
        ),
    ] = None,
    evidence: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help=(
                "Share of the computing time spent on testing other values, from 0 (none) to"
                f" {MOST_EVIDENCE}."
            ),
        ),
    ] = EVIDENCE,
    runner: Annotated[str, typer.Option(help=RUNNER_HELP)] = "local",
    against: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=AGAINST_HELP)] = None,
    views: Annotated[str, typer.Option(metavar="1|2|auto", help=VIEWS_HELP)] = "auto",
    classes_from: ClassesOption = "folder",
    skip_empty_classes: SkipOption = False,
    follow_links: LinksOption = False,
    cache_size: CacheOption = CACHE_SIZE,
    show: Annotated[bool, typer.Option("--open", help=cli_serve.OPEN_HELP)] = False,
    as_json: JsonOption = False,
) -> None:
    """Choose a network for IMAGES by experiment, and write it with its evidence.

    Writes choice.json, report.html and study.db, and the network in every format of `export`.
    Ctrl-C writes the best network so far; running the same command again continues an unfinished
    study. If no network reaches the accuracy that the goal asks for, the nearest one is written,
    and the exit code is 1. The exit code is also 1 if no network is better than always answering
    the largest class (or the median number), or if the probe of `look` is more accurate.
    """
    from convwise import settings, verbs

    _on_termination()
    command = "convwise " + shlex.join(sys.argv[1:])
    with ExitStack() as until_seen:
        if show:
            until_seen.enter_context(cli_serve.page_beside(settings.folder_for(images, out_dir)))
        with watching(as_json) as watcher:
            written = verbs.choose(
                images, budget=budget, goal=goal, task=task, test=_test(test), out=out_dir,
                seed=seed, workers=workers, trials=trials, evidence=evidence, runner=runner,
                against=against or (), views=views, classes_from=classes_from,
                skip_empty_classes=skip_empty_classes, follow_links=follow_links,
                cache_size=cache_size, command=command, watcher=watcher, started=STARTED,
            )  # fmt: skip
        wanted = _tell_choice(Path(written), as_json)
    if not wanted:
        raise typer.Exit(1)


@app.command()
def look(
    images: ImagesArgument,
    budget: PlannedOption = "10m",
    test: TestOption = None,
    seed: SeedOption = 0,
    classes_from: ClassesOption = "folder",
    skip_empty_classes: SkipOption = False,
    follow_links: LinksOption = False,
    cache_size: CacheOption = CACHE_SIZE,
    task: TaskOption = "classify",
    as_json: JsonOption = False,
) -> None:
    """Describe IMAGES in the numbers that matter for a network.

    Prints facts, problems and measurements; each measurement comes with what it means, and with an
    interval where it is uncertain. It takes a few seconds. The budget decides how many images are
    measured, as in `choose`; from a large set of files, only that many are read.
    """
    # Not through study, which loads the training engine: that takes longer than looking.
    from convwise.advice import doubts, fingerprint, outliers
    from convwise.core.clock import parse_duration
    from convwise.core.records import to_json
    from convwise.images import loading as reading

    how: dict[str, Any] = {"skip_empty_classes": skip_empty_classes, "follow_links": follow_links}
    seconds = parse_duration(budget)
    within = reading.Within(seconds, most=fingerprint.wanted(seconds), cache_size=cache_size)
    how |= {"task": task, "test": _test(test), "seed": seed, "within": within}
    read = reading.read(images, classes_from=classes_from, **how)
    about: dict[str, Any] = {"counts": read.counts(), "numbers": read.numbers}
    facts = fingerprint.look(read.train, read.classes, seed=seed, budget=seconds, **about)
    if as_json:
        odd = {
            "suspects": doubts.shown(facts, read.train.names),
            "outliers": outliers.shown(facts, read.train.names),
        }
        told = {"problems": to_json(read.problems), "facts": to_json(read.facts)}
        print(json.dumps({**to_json(facts), **odd, **told}))
        return
    out().print(f"{read.source}: read as: {read.facts['read_as']}", highlight=False)
    out().print(f"Proposed input {times(facts.input_shape)}: {facts.input_reason}", highlight=False)
    out().print(_measures(facts))
    sentences = [each.told(facts, read.train.names) for each in (doubts, outliers)]
    for problem in (*read.problems, *filter(None, sentences)):
        out().print(f"- {problem}", highlight=False)


def _measures(facts: Any) -> Table:
    rows = table("measure", "value", "95 % interval", "meaning")
    for m in facts.measures:
        interval = f"{number(m.low)} .. {number(m.high)}" if m.low is not None else ""
        rows.add_row(m.name, f"{number(m.value)} {m.unit}", interval, m.meaning)
    return rows


@app.command()
def advise(
    images: ImagesArgument,
    goal: GoalOption = None,
    budget: PlannedOption = "10m",
    seed: SeedOption = 0,
    classes_from: ClassesOption = "folder",
    skip_empty_classes: SkipOption = False,
    follow_links: LinksOption = False,
    cache_size: CacheOption = CACHE_SIZE,
    task: TaskOption = "classify",
    as_json: JsonOption = False,
) -> None:
    """Say what to start with for IMAGES, without training.

    Prints a network as Keras code, and a reason for every parameter. The exit code is 1 if no
    network can meet the goal.
    """
    from convwise import verbs
    from convwise.advice import fingerprint
    from convwise.advice.advising import layer_reasons
    from convwise.core.clock import parse_duration
    from convwise.core.records import to_json
    from convwise.images import loading as reading

    how: dict[str, Any] = {"skip_empty_classes": skip_empty_classes, "follow_links": follow_links}
    seconds = parse_duration(budget)
    within = reading.Within(seconds, most=fingerprint.wanted(seconds), cache_size=cache_size)
    how |= {"task": task, "seed": seed, "within": within}
    read = reading.read(images, classes_from=classes_from, **how)
    advice = verbs.advise(read, goal=goal, budget=seconds, seed=seed)
    if as_json:
        layers = layer_reasons(advice.configuration.grown, advice.reasons)
        beside = {"cost": advice.configuration.cost, "layers": layers, "plan": advice.plan}
        print(json.dumps({**to_json(advice), **beside}))
        return
    from convwise.core.text import short
    from convwise.formats import keras

    source = keras.render(advice.net, read.classes or read.numbers)
    out().print(source, highlight=False, soft_wrap=True)
    rows = table("parameter", "value", "because", "source")
    for reason in advice.reasons:
        rows.add_row(reason.parameter, str(reason.value), reason.because, reason.source)
    out().print(rows)
    cost = advice.configuration.cost
    costs = [f"{short(cost['params'])} parameters", f"{short(cost['macs'])} macs"]
    costs += [f"{short(cost['activation_bytes'])}B of activations"]
    costs += [f"{cost['latency_ms']:.3g} ms per image (predicted)"] if "latency_ms" in cost else []
    out().print(f"Cost: {', '.join(costs)}", highlight=False)
    out().print(f"Time: {advice.plan}", highlight=False)


app.command()(cli_predict.predict)  # here, as the help keeps this order


@app.command()
def export(
    folder: DirArgument,
    to: Annotated[str, typer.Option(help=TO_HELP)],
) -> None:
    """Write the network in DIR again, in one format.

    Writes its code, its weights or both, whichever the format has.
    """
    from convwise import formats

    for path in formats.export(folder, to):
        out().print(str(path), highlight=False, soft_wrap=True)


@app.command()
def report(folder: DirArgument) -> None:
    """Print again what was chosen in DIR, and where its report is."""
    _tell_choice(folder, False)


app.command(cls=cli_layer.Words, short_help="Show what one layer does to one input.")(
    cli_layer.layer
)
app.command(short_help="Show what MODEL costs and sees, and what is wrong with it.")(
    cli_check.check
)
app.command(short_help="Measure what a change to a network is worth on your images.")(
    cli_measure.measure
)
app.command(short_help="Show the study in DIR as a web page.")(cli_serve.serve)


def _test(text: str | None) -> Any:
    if text is None or text == "none":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise UnusableInput("--test", f"is {text!r}", "a share such as 0.2, or 'none'") from error


def _on_termination() -> None:
    """SIGTERM is taken as Ctrl-C: the best so far is written."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


def _tell_choice(folder: Path, as_json: bool) -> bool:
    """Say what was chosen; returns whether it is what the goal wanted."""
    from convwise.output import choice

    found = choice.load(folder)
    if as_json:
        print(json.dumps(found.record))
    else:
        for line in choice.summary(found.record, folder):
            out().print(line, highlight=False, soft_wrap=True)
    return bool(found.record.get("goal", {}).get("kept", True)) and found.is_chosen


def main() -> None:
    """The `convwise` command; `options` says what its exit codes mean."""
    # Keras loads TensorFlow if it is installed, which chats on stderr even if it is not the backend
    if os.environ.get("KERAS_BACKEND") != "tensorflow":
        os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0", **os.environ}
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the locale cannot write does not stop a command
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here a full disk can still be told
    except (ConvwiseError, OSError, MemoryError, RuntimeError, ImportError) as error:
        told = error if isinstance(error, ConvwiseError) else of_the_machine(error, "the output")
        if told is None:
            raise
        if isinstance(error, OSError):
            # Else Python would try again at the end to write what could not be, and tell of it
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        err().print(f"convwise: {told}", highlight=False, soft_wrap=True)
        sys.exit(told.exit_code)


def command() -> None:
    """The same as a program, which ends at once: what it has loaded takes seconds to put away."""
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        code = 130
    with suppress(OSError, ValueError):  # whoever read it may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    atexit._run_exitfuncs()  # of multiprocessing, among others
    os._exit(code)


if __name__ == "__main__":
    command()
