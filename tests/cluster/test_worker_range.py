"""`--layout.workers 2..4`, as the command line takes it."""

import pytest

from cli.errors import UserError
from cluster.layout import Layout
from cluster.parallel.choose import check_layout
from cluster.worker_range import refuse_range, with_range


@pytest.mark.parametrize("given", [["--layout.workers=2..4"], ["--layout.workers", "2..4"]])
def test_a_range_is_the_most_and_the_fewest(given):
    found = with_range(["digits", *given, "--seed=1"])
    assert found == ["digits", "--layout.workers=4", "--layout.fewest-workers=2", "--seed=1"]


@pytest.mark.parametrize(
    "given",
    [
        ["--layout.workers=4"],
        ["--layout.workers", "4"],
        ["--out=../runs"],
        ["--out", "a..b"],
        ["--layout.workers"],
    ],
)
def test_all_else_stays_as_it_is(given):
    assert with_range(given) == given


@pytest.mark.parametrize(
    "value", ["4..2", "2..2", "0..2", "..", "2..", "..4", "a..b", "-1..2", "1...2", "1.5..2"]
)
def test_nonsense_is_told_with_what_is_wanted(value):
    with pytest.raises(UserError, match=r"--layout.workers .* must be a number, or FEWEST\.\.MOST"):
        with_range([f"--layout.workers={value}"])


def test_said_twice():
    with pytest.raises(UserError, match=r"leave --layout.fewest-workers out"):
        with_range(["--layout.workers=2..4", "--layout.fewest-workers=1"])


def test_a_layout_says_what_was_asked_for():
    assert Layout(workers=4, fewest_workers=2).asked_workers == "2..4"
    assert Layout(workers=4).asked_workers == "4"


@pytest.mark.parametrize("fewest", [0, 5])
def test_more_at_the_least_than_at_the_most(fewest):
    with pytest.raises(UserError, match=r"--layout.fewest-workers must be from 1 to the 4 of --layout.workers"):
        check_layout(Layout(workers=4, fewest_workers=fewest), 256)


def test_a_job_of_fixed_workers_takes_no_range():
    refuse_range(Layout(workers=4))
    with pytest.raises(UserError, match="only a training"):
        refuse_range(Layout(workers=4, fewest_workers=2))
