"""Which worker keeps the others waiting is measured, and said where it is clear."""

import re
import time
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial

import pytest

from tests.processes import job
from vgg.recipes.registry import RECIPES
from vgg.training import loop
from vgg.training.rank_times import MOST_RANKS, RankTime, curves, describe_slowest, slowest

RECIPE = RECIPES["digits"][1]


@pytest.mark.parametrize(
    ("own_s", "rows", "expected"),
    [
        ([1.0], [256], None),
        ([1.0, 1.2], [128, 128], None),
        ([1.0, 2.0], [128, 128], (1, 2.0)),
        ([2.0, 1.0, 1.0], [86, 85, 85], (0, 1.977)),
        ([1.5, 1.5, 1.0], [96, 96, 64], None),  # more rows take longer
        ([1.5, 1.5, 1.6], [96, 96, 64], (2, 1.6)),
        ([0.001, 0.002], [128, 128], None),  # of a step of 2 s
    ],
)
def test_slower_is_who_takes_longer_for_a_row(own_s, rows, expected):
    longest = 2.0
    times = [
        RankTime(seconds / 4, seconds * 3 / 4, longest - seconds, count)
        for seconds, count in zip(own_s, rows, strict=True)
    ]
    found = slowest(times)
    assert found == (None if expected is None else (expected[0], pytest.approx(expected[1], abs=1e-3)))
    assert (describe_slowest(times) == "") == (expected is None)


def test_curves_are_of_every_rank_of_a_few_and_of_several():
    times = [RankTime(0.1, 0.2, 0.3, 8), RankTime(0.4, 0.5, 0.6, 8)]
    assert curves(times) == {
        "ranks/0/data_seconds": 0.1,
        "ranks/0/compute_seconds": 0.2,
        "ranks/0/exchange_seconds": 0.3,
        "ranks/1/data_seconds": 0.4,
        "ranks/1/compute_seconds": 0.5,
        "ranks/1/exchange_seconds": 0.6,
    }
    assert curves(times[:1]) == {}
    assert curves(times * MOST_RANKS) == {}


@contextmanager
def second_is_slow(rank, log):
    """The second worker sleeps in each step; what the first prints goes to a file."""
    with pytest.MonkeyPatch.context() as patch, log.open("a") as file, redirect_stdout(file):
        if rank == 1:
            whole = loop.to_input

            def slow(*arguments):
                time.sleep(0.4)
                return whole(*arguments)

            patch.setattr(loop, "to_input", slow)
        yield


def test_a_slow_worker_is_named_in_the_log(workers, digits, tmp_path):
    short = replace(RECIPE, train=replace(RECIPE.train, steps=4, checkpoint_steps=100))
    log = tmp_path / "log"
    workers.run(2, job(digits, tmp_path / "out", short), partial(second_is_slow, log=log))
    found = re.search(
        r"step 4/4 .*  slowest: rank 1, [\d.]+ times the others \(data ([\d.]+) s, .* ([\d.]+) s",
        log.read_text(),
    )
    assert found is not None, log.read_text()
    assert float(found[2]) > max(0.4, float(found[1]))
