"""The benchmarks: rivals that learn, a record net as published, a matrix that is resumed."""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from convwise.core.calculus import analyse
from convwise.core.configuration import MEANING
from convwise.core.space import Hyperparameter, Space
from convwise.formats.torch.lift import lift
from convwise.images.loading import read
from convwise.training.machine import ThisMachine, slowness
from imagesets import striped

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import matrix  # noqa: E402
import plots  # noqa: E402
import sets  # noqa: E402
import table  # noqa: E402
from rivals import KINDS, RIVALS, Job  # noqa: E402
from rivals.expert import expert, one_cycle  # noqa: E402
from rivals.loop import Average, Threads, cost  # noqa: E402
from rivals.muon import Muon, orthogonal  # noqa: E402
from rivals.ours import ANYTHING, anything, valid  # noqa: E402
from rivals.record import Record, patches_of, triangle  # noqa: E402
from rivals.views import Views  # noqa: E402

LIGHT = ("lenet_5", "keras_mnist", "expert-16", "record-0.25", "record-muon-0.25")
HEAVY = ("choose", "arbitrary", "optuna-tpe", "advised", "three_convolutions", "record-muon-1")


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    _ = ThisMachine().engine  # its self-test, once for each install, is no part of a rival's time
    yield
    torch.set_num_threads(before)


# rivals ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_a_rival_learns_in_a_moment_and_opens_the_sealed_part_once(name, one_thread):
    job = Job("digits", 0, time.monotonic() + 2.0 * slowness(), options=RIVALS[name].options)
    answer = RIVALS[name].run(job)
    assert job.images.test.opened == 0
    scored, facts = answer.score(job), answer.facts()
    assert job.images.test.opened == 1
    assert scored["n"] == job.images.test.size
    assert scored["accuracy"] > 0.2  # ten classes
    assert facts["images_seen"] > 0
    assert facts["macs"] > 0
    assert facts["latency_ms"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_every_rival_runs_as_the_matrix_runs_it(name, tmp_path):
    run = matrix.Run("digits", name, 25.0, 0)
    row = matrix.ran(run, sets.DATA, tmp_path, matrix.Here("this", "here"))
    assert row["status"] == "done", row["error"]
    assert row["accuracy"] > 0.08
    assert {"n", "macs", "params", "wall_seconds", "load", "date", "versions"} <= set(row)


@pytest.mark.parametrize("rival", RIVALS.values(), ids=list(RIVALS))
def test_every_row_of_the_table_can_be_called(rival):
    assert rival.kind in KINDS
    assert isinstance(rival.run, Callable)


def test_an_arbitrary_configuration_is_drawn_from_more_than_was_advised():
    assert set(ANYTHING) <= set(MEANING)
    small = Space(
        1,
        3,
        (0.5,),
        (0.1,),
        tuple(Hyperparameter(name, values[:1]) for name, values in ANYTHING.items()),
    )
    space = replace(
        small, hyperparameters=(*small.hyperparameters, Hyperparameter("input.size", ("16x16",)))
    )
    nets = {space.fit(valid(anything(space), random.Random(seed))).net.id for seed in range(20)}
    assert len(nets) > 15


def test_rivals_of_kinds_3_and_4_do_not_see_our_trainer():
    """Of convwise they import images, the dtype, and what measures latency."""
    for module in ("expert", "record", "muon", "loop", "views", "job"):
        text = (ROOT / "benchmarks" / "rivals" / f"{module}.py").read_text()
        assert not any(
            name in text
            for name in ("convwise.training.train", "import train", "batches import", "Recipe")
        )


# the record's net ------------------------------------------------------------------------------

# KellerJordan/cifar10-airbench at f1c599c, airbench94_muon.py: the shapes of
# CifarNet().parameters()
PUBLISHED = [
    (24, 3, 2, 2), (24,),
    (64, 24, 3, 3), (64,), (64,), (64, 64, 3, 3), (64,), (64,),
    (256, 64, 3, 3), (256,), (256,), (256, 256, 3, 3), (256,), (256,),
    (256, 256, 3, 3), (256,), (256,), (256, 256, 3, 3), (256,), (256,),
    (10, 256),
]  # fmt: skip
PUBLISHED_PARAMS, PUBLISHED_TRAINED = 1_972_792, 1_971_352


def test_the_record_net_is_the_published_one():
    net = Record(3, 10)
    assert sorted(tuple(p.shape) for p in net.parameters()) == sorted(PUBLISHED)
    assert sum(p.numel() for p in net.parameters()) == PUBLISHED_PARAMS
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == PUBLISHED_TRAINED
    maps: list[tuple[int, ...]] = []
    for group in net.groups:
        group.register_forward_hook(lambda module, given, made: maps.append(tuple(made.shape[1:])))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert maps == [(64, 15, 15), (256, 7, 7), (256, 3, 3)]


def test_the_stem_whitens_and_the_groups_begin_as_the_identity():
    pixels, _ = striped(3, 40, size=12, channels=3)
    net = Record(3, 10, 0.5)
    patches = patches_of(pixels, 1, 0)
    net.whiten(patches)
    out = nn.functional.conv2d(patches, net.stem.weight)[:, :12, 0, 0].double().numpy()
    second = out.T @ out / len(out)
    kept = np.diag(second) > 0.9  # directions whose variance is far above eps
    assert kept.sum() >= 4
    np.testing.assert_allclose(second[np.ix_(kept, kept)], np.eye(kept.sum()), atol=0.1)
    assert torch.equal(net.stem.weight[:12], -net.stem.weight[12:])
    x = torch.randn(2, 24, 6, 6)
    torch.testing.assert_close(net.groups[0].conv1(x)[:, :24], x)


def test_newton_schulz_brings_singular_values_near_one():
    matrices = torch.randn(3, 16, 72, generator=torch.Generator().manual_seed(0))
    for given in (matrices, matrices.mT):
        found = orthogonal(given, steps=5).numpy()
        u, _, vt = np.linalg.svd(given.numpy(), full_matrices=False)
        values = np.linalg.svd(found, compute_uv=False)
        assert values.min() > 0.6
        assert values.max() < 1.3
        # the same singular vectors: U^T X V is diagonal
        inside = u.transpose(0, 2, 1) @ found @ vt.transpose(0, 2, 1)
        off = inside - np.stack([np.diag(np.diag(each)) for each in inside])
        assert np.abs(off).max() < 1e-3


def test_muon_steps_each_filter_as_alone_and_from_the_norm_of_its_rows():
    """Batching over filters of one shape changes nothing; the step has the rate's length."""

    def stepped(count: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        filters = [nn.Parameter(torch.randn(8, 4, 3, 3, generator=generator)) for _ in range(3)]
        grads = [torch.randn(8, 4, 3, 3, generator=generator) for _ in filters]
        for p, grad in zip(filters, grads, strict=True):
            p.grad = grad
        optimizers = [Muon(filters, 0.1, 0.6, triangle)] if count == 1 else [
            Muon([p], 0.1, 0.6, triangle) for p in filters]  # fmt: skip
        for optimizer in optimizers:
            optimizer.step()
        return [p.detach() for p in filters]

    for together, alone in zip(stepped(1), stepped(3), strict=True):
        torch.testing.assert_close(together, alone)
        assert float(together.norm()) == pytest.approx(8**0.5, abs=0.1 * 1.3 * 8**0.5)


def test_rates_rise_and_fall():
    assert [triangle(x) for x in (0, 0.23, 1)] == pytest.approx([0.2, 1, 0.07])
    assert [one_cycle(x) for x in (0, 0.15, 1)] == pytest.approx([0.1, 1, 0])


def test_costs_are_those_of_our_calculus():
    """Two ways to count: hooks on a forward pass, and the exported module read as a net."""
    net = expert(1, 10, 16)
    found, total = cost(net, (20, 20, 1)), analyse(lift(net.eval(), (20, 20, 1)).net).total
    assert (found["params"], found["macs"]) == (total.params, total.macs)


# the loop --------------------------------------------------------------------------------------


def test_views_shift_inside_and_mirror_in_turns():
    pixels = np.arange(2 * 5 * 5, dtype=np.uint8).reshape(2, 5, 5, 1)
    views = Views(pixels, np.arange(2), "alternating", 0, seed=1)
    epochs = views.batches(2)
    (first, y1), (second, y2) = next(epochs), next(epochs)
    first, second = (x[y.argsort()] for x, y in ((first, y1), (second, y2)))
    torch.testing.assert_close(first.flip(3), second)
    shifted = Views(pixels, np.arange(2), "never", 2, seed=1).positions(5, 200)
    assert {tuple(row) for row in shifted.tolist()} == {
        (2, 1, 0, 1, 2), (1, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 3), (2, 3, 4, 3,
        2)}  # fmt: skip


def test_the_average_follows_early_and_keeps_late():
    layer = nn.Linear(1, 1, bias=False).requires_grad_(False)
    nn.init.zeros_(layer.weight)
    average = Average(layer)
    nn.init.ones_(layer.weight)
    average.update(0.0)
    assert float(layer.weight) == 1
    nn.init.zeros_(layer.weight)
    average.update(1.0)
    assert float(layer.weight) == pytest.approx(0.95**5)


@pytest.mark.parametrize(("slow", "kept"), [(1, 2), (2, 1)])
def test_the_faster_number_of_threads_is_kept(slow, kept, one_thread):
    threads = Threads(2)
    for step in range(12):
        threads.settle(step)
        time.sleep(0.02 if threads.best == slow else 0.001)
    assert threads.best == kept


# sets ------------------------------------------------------------------------------------------


def test_made_sets_have_the_size_asked_for(tmp_path):
    row = sets.Set("digits", images=500, px=12, channels=3, test=100)
    found = sets.arrays(row, "digits")
    assert found["x_train"].shape == (500, 12, 12, 3)
    assert found["x_test"].shape == (100, 12, 12, 3)
    assert np.unique(found["y_train"], return_counts=True)[1].min() >= 47
    assert {row.base for row in sets.SETS.values()} <= set(sets.BASES)
    assert sets.source("digits", cache=tmp_path) == "digits"


def test_a_turned_digit_turns_back(tmp_path):
    """By NumPy's quarter turns; an angle is counted counter-clockwise."""
    image = np.zeros((1, 9, 9, 1), np.uint8)
    image[0, 1, 4] = 255  # a dot above the middle

    class Quarter:
        def uniform(self, low, high, count):
            return np.full(count, 90.0)

    turned, degrees = sets.angle(image, Quarter())
    assert degrees.tolist() == [90]
    assert (turned[0, ..., 0] == np.rot90(image[0, ..., 0])).all()


def test_the_foreground_is_what_is_dark():
    image = np.full((1, 10, 10, 3), 220, np.uint8)
    image[0, :3] = 60
    pixels, share = sets.foreground(image, np.random.default_rng(0))
    assert share.tolist() == [30.0]
    assert pixels is image


def test_sets_of_numbers_are_read_as_numbers(tmp_path):
    source = sets.source("digits-angle", cache=tmp_path)
    images = read(source, task="regress")
    assert (images.train.pixels.shape[1:], sets.SETS["digits-angle"].task) == (
        (20, 20, 1),
        "regress",
    )
    assert -60 <= images.train.labels.min() < -55 < 55 < images.train.labels.max() <= 60


# the matrix ------------------------------------------------------------------------------------

HERE = matrix.Here("a machine", "new")


def row(method: str, seed: int, accuracy: float = 0.9, **changes: object) -> dict:
    return {"set": "digits", "method": method, "budget": 300.0, "seed": seed, "status": "done",
            "accuracy": accuracy, "n": 1000, "macs": 1e6, "params": 1e4, "latency_ms": 0.1,
            "epochs": 9, "wall_seconds": 299.0, "load": 1.0, "date": "2026-01-01T00:00:00+00:00",
            "revision": "abc", "versions": {"torch": "2"}, "machine_kind": HERE.kind,
            "source": "new",
            **changes}  # fmt: skip


def test_what_stands_is_not_run_again():
    rows = [row("choose", 0), row("choose", 1, source="old"), row("expert-16", 0, source="old"),
            row("expert-16", 1, machine_kind="another"), row("expert-16", 2,
            status="failed")]  # fmt: skip
    wanted = [matrix.Run("digits", m, 300.0, s) for m in ("choose", "expert-16") for s in range(3)]

    def left(**how: bool) -> list[tuple[str, int]]:
        return [(run.method, run.seed) for run in matrix.lacking(wanted, rows, HERE, **how)]

    assert left() == [("choose", 1), ("choose", 2), ("expert-16", 1)]
    assert left(keep_ours=True) == [("choose", 2), ("expert-16", 1)]
    assert left(retry=True) == [("choose", 1), ("choose", 2), ("expert-16", 1), ("expert-16", 2)]


def test_the_order_is_random_and_keeps_together_what_is_compared():
    runs = [matrix.Run(s, m, 300.0, seed) for s in "abc" for m in "xyz" for seed in range(4)]
    ordered = matrix.in_order(runs, 0)
    blocks = [
        {(run.set, run.seed) for run in ordered[i : i + 3]} for i in range(0, len(ordered), 3)
    ]
    assert sorted(map(str, ordered)) == sorted(map(str, runs))
    assert all(len(block) == 1 for block in blocks)
    assert ordered != runs
    assert ordered == matrix.in_order(runs, 0) != matrix.in_order(runs, 1)


def test_dry_says_what_would_be_run_and_runs_nothing(tmp_path, capsys):
    results = tmp_path / "matrix.jsonl"
    here = matrix.machine_kind()
    results.write_text(json.dumps(row("expert-16", 0, machine_kind=here)) + "\n")
    matrix.main(["--methods", "expert-16,lenet_5", "--sets", "digits", "--budgets", "300",
                 "--seeds", "0-1", "--results", str(results), "--dry"])  # fmt: skip
    said = capsys.readouterr().out
    assert "1 stand, 3 to run, about 15 min" in said
    assert said.count("digits") == 3
    assert len(results.read_text().splitlines()) == 1


def test_a_run_that_fails_or_hangs_is_a_row():
    code = "import sys; sys.exit('first\\nlast words')"
    assert matrix.answer([sys.executable, "-c", code], 60) == {
        "status": "failed",
        "error": "last words",
    }
    hung = matrix.answer([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    assert hung == {"status": "failed", "error": "ended after 0 s"}
    done = matrix.answer([sys.executable, "-c", "print('noise'); print('{\"n\": 3}')"], 60)
    assert done == {"status": "done", "n": 3}


# the table -------------------------------------------------------------------------------------


def test_ratios_are_paired_and_against_the_best_in_hindsight():
    rows = [row("expert-16", s, a) for s, a in ((0, 0.9), (1, 0.8))]
    # Better once, worse in the mean
    rows += [row("record-1", s, a) for s, a in ((0, 0.95), (1, 0.7))]
    rows += [row("choose", s, a) for s, a in ((0, 0.95), (1, 1.0), (2, 0.5))]
    ((key, cells),) = table.tables(rows).items()
    assert key == (HERE.kind, 300.0)
    best = table.best_fixed(cells)
    assert best["digits"].method == "expert-16"
    expected = (math.log(0.05 / 0.1) + math.log(0.0005 / 0.2)) / 2  # half an example of 1,000
    assert table.log_ratios(cells, "choose", best) == {"digits": pytest.approx(expected)}
    assert table.mean_ranks(cells) == {"choose": 1, "expert-16": 2, "record-1": 3}


def test_only_the_newest_source_of_ours_counts_for_a_set():
    rows = [row("choose", 0, source="old"), row("choose", 1, source="new"), row("lenet_5", 0,
            source="old"),
            {**row("choose", 0, source="old"), "set": "mnist-5k"}]  # fmt: skip
    (cells,) = table.tables(rows).values()
    assert {(cell.set, cell.method, tuple(cell.errors)) for cell in cells} == {
        ("digits", "choose", (1,)), ("digits", "lenet_5", (0,)), ("mnist-5k", "choose", (0,))
    }  # fmt: skip


def test_what_a_goal_of_cost_saves_is_told_beside_the_best_fixed_net():
    rows = [
        {**row("expert-16", 0, 0.9), "macs": 8e6, "latency_ms": 0.4},
        {**row("record-1", 0, 0.8), "macs": 1e3},
    ]
    rows += [{**row("choose-wanted", 0, 0.898), "macs": 1e6, "latency_ms": 0.1}]
    (cells,) = table.tables(rows).values()
    said = table.cheapest(cells)
    assert "| `choose-wanted` | digits | 0.12 | 0.25 | -0.2 | expert-16 |" in said
    assert "| `choose-wanted` | median of 1 | 0.12 | 0.25 | | |" in said
    assert table.cheapest([cell for cell in cells if cell.method != "choose-wanted"]) == []


def test_the_interval_of_a_median_holds_it():
    assert table.median_interval(range(5)) is None
    rng = np.random.default_rng(0)
    for count in (6, 9, 14):
        drawn = rng.exponential(size=(600, count))
        found = [table.median_interval(each) for each in drawn]
        assert np.mean([low <= math.log(2) <= high for low, high in found]) > 0.93


def test_a_table_and_a_plot_come_out(tmp_path):
    rows = [row(m, s, 0.9 + s / 100) for m in ("choose", "advised", "expert-16") for s in (0, 1)]
    said = table.text(
        [*rows, row("record-1", 0, status="failed", error="no memory")], table.read(table.COMPARED)
    )
    assert "| digits | choose | 90.50 | 90.00 to 91.00 | 0, 1 |" in said
    assert "| `choose` | best fixed | 1 | 1.00 | too few sets |" in said
    assert "no memory" in said
    assert "nothing stands beside it" not in said
    alone = table.text([row("choose", 0)], table.read(table.COMPARED))
    assert "Only `choose` was run" in alone
    assert "Mean rank" not in alone
    assert "From state to state" not in said
    before = row("choose", 0, 0.8, source="old", revision="before")
    said = table.text([before, *rows], table.read(table.COMPARED))
    assert "| `choose` | best fixed, at before | 1 | 2.00 |" in said
    assert "| `choose` | best fixed, at abc | 1 | 1.00 |" in said
    (cells,) = table.tables(rows).values()
    plots.draw(cells, tmp_path / "plot")
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_numbers_have_a_table_of_their_own():
    """Beside the rows of classes: an error is no accuracy, and enters no ratio."""
    told = {"error": 0.97, "low": 0.89, "high": 1.04, "baseline": 29.6, "r2": 0.999, "load": 2.5}
    number = {**row("choose", 0), **told, "set": "angles"}
    del number["accuracy"]
    old = table.read(table.COMPARED)
    assert "off by 0.97" in matrix.told(number)
    assert "Numbers instead" not in table.text([row("choose", 0)], old)
    said = table.text([row("choose", 0), row("advised", 0, 0.8), number], old)
    assert "| angles | 0.97 | 0.89 to 1.04 | 29.60 | 0.999 |" in said
    assert said.count("| angles |") == 1
    assert "No rows yet" in table.text([number], old)


def test_the_readme_is_what_the_rows_give():
    assert table.README.read_text() == table.text(
        table.read(table.MATRIX), table.read(table.COMPARED)
    )
