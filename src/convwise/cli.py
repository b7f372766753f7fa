"""The command line: one door to the study."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from convwise import cli_check, cli_layer
from convwise.clock import process_age
from convwise.console import err, out, table
from convwise.core.problems import ConvwiseError, UnusableInput

if TYPE_CHECKING:
    from rich.table import Table

STARTED = time.monotonic() - process_age()


class Commands(TyperGroup):
    """The commands; an interrupt that none of them answers is told: typer would end without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            err().print("convwise: interrupted; nothing was written", highlight=False)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

IMAGES_HELP = (
    "Class folders (with or without train/ val/ test/ above them), a zip of them, an .npz "
    "(x_train, y_train, ... or train_images, train_labels, ...), a folder of IDX files, or the name 'digits'."
)
ImagesArgument = Annotated[str, typer.Argument(metavar="IMAGES", help=IMAGES_HELP, show_default=False)]
GOAL_HELP = (
    "What to maximise, and limits: 'accuracy where latency<2ms and macs<5M and params<100k'. Limits: latency (us, ms, "
    "s; batch 1, one thread), macs (multiply-accumulates; k, M, G), params (k, M), activation_bytes (kB, MB, KiB, MiB)."
)
GoalOption = Annotated[str, typer.Option(help=GOAL_HELP)]
TestOption = Annotated[
    str | None, typer.Option(help="Share to seal as test part where the source has none (default 0.2), or 'none'.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of every random draw.")]
JSON_HELP = "Print JSON for programs on standard output; progress, where there is some, a JSON line each on stderr."
JsonOption = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
BUDGET_HELP = "Wall clock from start to the written folder: 90s, 10m, 1h30m; at least 20s."
BudgetOption = Annotated[str, typer.Option(help=BUDGET_HELP)]
PLANNED_HELP = "Wall clock that `choose` would be given, so that the advice fits it: 90s, 10m, 1h30m."
PlannedOption = Annotated[str, typer.Option("--budget", help=PLANNED_HELP)]
DirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `convwise choose` wrote.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"convwise {metadata.version('convwise')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it, and end.")
    ] = False,
) -> None:
    """Chooses the parameters of 2D conv networks from your own images, with evidence.

    Exit codes: 0 done; 1 the answer is no (a finding that is an error, a limit that cannot be
    met); 2 wrong usage or unusable input; 130 interrupted before there was anything to write.
    """


@app.command(short_help="Choose a network for IMAGES by experiment, and write it.")
def choose(
    images: ImagesArgument,
    budget: BudgetOption = "10m",
    goal: GoalOption = "accuracy",
    task: Annotated[str, typer.Option(help="What is learnt: classify.")] = "classify",
    test: TestOption = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; default convwise-NAME of the images.")
    ] = None,
    seed: SeedOption = 0,
    workers: Annotated[
        int | None, typer.Option(help="Processes that train side by side; default one a core, 8 at most.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Count trials instead of timing them: the same choice again with one worker.")
    ] = None,
    runner: Annotated[str, typer.Option(help="Where trials run: local.")] = "local",
    as_json: JsonOption = False,
) -> None:
    """Choose a network for IMAGES by experiment, and write it with its evidence.

    Writes choice.json, report.html, model_keras.py, model_torch.py, model.keras,
    model.safetensors, model.onnx and study.db. Ctrl-C takes the best so far; running the same
    command again continues an unfinished study.
    """
    from convwise import study

    _on_termination()
    command = "convwise " + shlex.join(sys.argv[1:])
    with _watcher(as_json) as watcher:
        folder = study.choose(
            images, budget=budget, goal=goal, task=task, test=_test(test), out=out_dir, seed=seed, workers=workers,
            trials=trials, runner=runner, command=command, watcher=watcher, started=STARTED,
        )  # fmt: skip
    _tell_choice(folder, as_json)


@app.command()
def look(images: ImagesArgument, test: TestOption = None, seed: SeedOption = 0, as_json: JsonOption = False) -> None:
    """Say what IMAGES are like, in numbers that bear on a network.

    Facts, problems, and measures, each with its meaning, and its interval where it is uncertain.
    """
    # Not through study, which loads the training engine: that takes longer than looking.
    from convwise import fingerprint
    from convwise import images as reading
    from convwise.core.records import to_json

    read = reading.read(images, test=_test(test), seed=seed)
    facts = fingerprint.look(read.train, read.classes, seed=seed)
    if as_json:
        print(json.dumps({**to_json(facts), "problems": to_json(read.problems), "facts": to_json(read.facts)}))
        return
    test_n = read.test.size if read.test else 0
    counts = f"train {len(read.train)}, valid {len(read.valid)}, sealed test {test_n}"
    out().print(f"{read.source}: {len(read.classes)} classes; {counts}")
    height, width, channels = facts.input_shape
    out().print(f"Proposed input {height}x{width}x{channels}: {facts.input_reason}", highlight=False)
    out().print(_measures(facts))
    if facts.skipped:
        out().print(f"Not measured in this time: {', '.join(facts.skipped)}", highlight=False)
    for problem in read.problems:
        out().print(f"- {problem}", highlight=False)


def _measures(facts: Any) -> Table:
    rows = table("measure", "value", "95 % interval", "meaning")
    for m in facts.measures:
        interval = f"{m.low:.3g} .. {m.high:.3g}" if m.low is not None else ""
        rows.add_row(m.name, f"{m.value:.3g} {m.unit}", interval, m.meaning)
    return rows


@app.command()
def advise(
    images: ImagesArgument,
    goal: GoalOption = "accuracy",
    budget: PlannedOption = "10m",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Say what to start with for IMAGES, without training.

    A network as Keras code, and a reason for every parameter. Exit code 1 where no network can
    meet the goal.
    """
    from convwise import study
    from convwise.advice import layer_reasons
    from convwise.clock import parse_duration
    from convwise.core.records import to_json

    advice = study.advise(images, goal=goal, budget=parse_duration(budget), seed=seed)
    if as_json:
        layers = layer_reasons(advice.net, advice.reasons)
        print(json.dumps({**to_json(advice), "cost": advice.space.cost(advice.net), "layers": layers}))
        return
    from convwise.formats import keras

    out().print(keras.render(advice.net), highlight=False)
    rows = table("parameter", "value", "because", "source")
    for reason in advice.reasons:
        rows.add_row(reason.parameter, str(reason.value), reason.because, reason.source)
    out().print(rows)
    costs = "; ".join(f"{name} {value:,.6g}" for name, value in advice.space.cost(advice.net).items())
    out().print(f"Cost: {costs}", highlight=False)


@app.command()
def predict(
    folder: DirArgument,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="An image file, or a folder of them.")],
    csv_file: Annotated[Path | None, typer.Option("--csv", help="File to write; default: standard output.")] = None,
) -> None:
    """Label IMAGES with the network in DIR, as CSV.

    The columns are path, label, and a probability for each class. An image that cannot be read
    has an empty label and is named on stderr; where none can be read the exit code is 2.
    """
    from convwise import deliver

    if csv_file and not _writable(csv_file):  # before all the work
        raise UnusableInput("--csv", f"{csv_file} cannot be written", "a file, in a folder that can be written")
    rows = deliver.predict(folder, images)
    classes = deliver.read_choice(folder)["data"]["classes"]
    if csv_file is None:
        deliver.write_csv(rows, classes, sys.stdout)
    else:
        with csv_file.open("w", newline="") as file:
            deliver.write_csv(rows, classes, file)
    broken = [row for row in rows if "error" in row]
    for row in broken:
        err().print(f"{row['path']}: {row['error']}", highlight=False, soft_wrap=True)
    err().print(f"{len(rows) - len(broken)} images labelled, {len(broken)} unreadable", highlight=False)


def _writable(file: Path) -> bool:
    folder = file.absolute().parent
    return not file.is_dir() and folder.is_dir() and os.access(file if file.exists() else folder, os.W_OK)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `convwise choose` wrote.")],
    to: Annotated[str, typer.Option(help="keras, torch, onnx or json.")],
) -> None:
    """Write the network in DIR in one format again.

    Its code, its weights or both.
    """
    from convwise import formats

    for path in formats.export(folder, to):
        out().print(str(path), highlight=False)


@app.command()
def report(folder: DirArgument) -> None:
    """Say again what was chosen in DIR, and where its report is."""
    _tell_choice(folder, False)


app.command(cls=cli_layer.Words, short_help="Say what one layer does to one input.")(cli_layer.layer)
app.command(short_help="Say what MODEL costs and sees, and what is wrong with it.")(cli_check.check)


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


class _watcher:
    """Progress: a live line on a terminal, a JSON line an event with --json, else nothing."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.status = err().status("starting") if err().is_terminal and not as_json else None

    def __enter__(self) -> Callable[[Any], None]:
        if self.status:
            self.status.start()
        return self.tell

    def __exit__(self, *error: object) -> None:
        if self.status:
            self.status.stop()

    def tell(self, progress: Any) -> None:
        if self.as_json:
            print(json.dumps(_event(progress)), file=sys.stderr, flush=True)
        elif self.status:
            self.status.update(_line(progress))
            if progress.note or progress.done == progress.planned > 0:
                err().print(_line(progress), highlight=False)
        elif progress.note:
            err().print(progress.note, highlight=False)


def _event(progress: Any) -> dict[str, Any]:
    best = progress.best
    found = {"accuracy": best.score, **best.cost} if best else None
    return {"stage": progress.stage, "done": progress.done, "planned": progress.planned, "best": found,
            "seconds_left": progress.seconds_left, "note": progress.note}  # fmt: skip


def _line(progress: Any) -> str:
    parts = [progress.note or progress.stage]
    if progress.planned:
        parts.append(f"{progress.done}/{progress.planned}")
    if progress.best:
        cost = progress.best.cost
        parts.append(
            f"best so far {100 * progress.best.score:.1f} % (validation), {cost['params'] / 1e3:,.1f}k params, "
            f"{cost['macs'] / 1e6:,.2f}M macs"
        )
    if progress.seconds_left is not None:
        parts.append(f"{int(progress.seconds_left) // 60}:{int(progress.seconds_left) % 60:02d} left")
    return "  ".join(parts)


def _tell_choice(folder: Path, as_json: bool) -> None:
    from convwise import deliver

    choice = deliver.read_choice(folder)
    if as_json:
        print(json.dumps(choice))
        return
    for line in summary(choice, folder):
        out().print(line, highlight=False, soft_wrap=True)


def summary(choice: dict[str, Any], folder: Path) -> list[str]:
    """What was chosen, how sure it is, and where the report is, in a few lines."""
    sample, test, cost = choice["sample"], choice["test"], choice["cost"]
    height, width, channels = choice["net"]["input_shape"]
    kind = "sealed test" if test["kind"] == "test" else "validation (no sealed test: an optimistic estimate)"
    same = [e["parameter"] for e in choice["effects"] if e["verdict"] == "no difference"]
    matters = [e["parameter"] for e in choice["effects"] if e["verdict"] == "matters"]
    lines = [
        f"Chosen: {sample['block']} network on {height}x{width}x{channels}: stem {sample['stem.kernel_size']}x"
        f"{sample['stem.kernel_size']} stride {sample['stem.strides']}, {sample['stage.count']} stages of "
        f"{sample['stage.convs']} convolutions {sample['stage.kernel_size']}x{sample['stage.kernel_size']} from "
        f"{sample['stage.filters']} filters, {sample['activation']}, {sample['head']}",
        f"Accuracy: {100 * test['accuracy']:.1f} % ({100 * test['low']:.1f} to {100 * test['high']:.1f} % at 95 %) on "
        f"{test['n']} {kind} images",
        f"Cost: {cost['params']:,} parameters, {cost['macs']:,} macs, {cost['latency_ms']:.2f} ms an image",
    ]
    if matters or same:
        lines.append(
            f"Measured: matters: {', '.join(matters) or 'nothing'}; makes no difference: {', '.join(same) or 'nothing'}"
        )
    return [*lines, f"Report: {folder / 'report.html'}"]


def main() -> None:
    """The `convwise` command: exit 0 done, 1 the answer is no, 2 wrong usage or unusable input."""
    # Keras loads TensorFlow wherever it finds it, which chats on stderr even where it is not the backend.
    if os.environ.get("KERAS_BACKEND") != "tensorflow":
        os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0", **os.environ}
    try:
        app()
    except ConvwiseError as error:
        err().print(f"convwise: {error}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
