"""Where a soak's seconds went and what grew, by hand-made inputs."""

import os

import psutil
import pytest

from tests.faults.effective import (
    AGAIN,
    ENDED,
    NO_FAULT,
    NOTICED,
    RESTARTED,
    STARTED,
    WAITED,
    Step,
    Strike,
    spent,
)
from tests.faults.lasting import Growth, content, growths, held

BEFORE = [Step(number, 9.0 + number) for number in (1, 2, 3, 4)]
"""One a second, from the tenth on: nine seconds of start."""


@pytest.mark.parametrize(
    ("after", "strikes", "changes", "effective", "lost", "again"),
    [
        pytest.param(
            [Step(3, 25.0), Step(4, 26.0), Step(5, 27.0)],
            [Strike("killed", 13.4)],
            [3.0, 18.0],
            5.0,
            {("killed", NOTICED): 5.0, ("killed", RESTARTED): 6.0, ("killed", AGAIN): 2.0},
            {"killed": 2},
            id="from the checkpoint of step 2, by new workers that were seen at 18",
        ),
        pytest.param(
            [Step(5, 23.0)], [Strike("stopped", 13.4)], [3.0], 5.0, {("stopped", WAITED): 9.0}, {}, id="goes on"
        ),
        pytest.param(
            [Step(5, 14.0), Step(6, 15.2)], [Strike("MLflow", 13.4)], [3.0], 6.2, {}, {}, id="costs nothing"
        ),
        pytest.param(
            [Step(5, 30.0)],
            [Strike("one", 13.4), Strike("two", 20.0)],
            [3.0, 18.0, 22.0],
            5.0,
            {("one", NOTICED): 5.0, ("one", RESTARTED): 2.0, ("two", NOTICED): 2.0, ("two", RESTARTED): 7.0},
            {},
            id="a second one strikes while the first is mended",
        ),
        pytest.param(
            [Step(5, 23.0), Step(6, 24.0), Step(7, 34.0)],
            [Strike("stopped", 12.9)],
            [3.0],
            7.0,
            {("stopped", WAITED): 9.0, ("no fault", WAITED): 9.0},
            {},
            id="a pause after it went on is not its own",
        ),
        pytest.param(
            [Step(2, 20.0), Step(3, 21.0), Step(2, 30.0), Step(3, 31.0), Step(4, 32.0)],
            [Strike("one", 13.4), Strike("two", 21.4)],
            [15.0, 25.0],
            4.0,
            {
                ("one", NOTICED): 2.0,
                ("one", RESTARTED): 4.0,
                ("one", AGAIN): 3.0,
                ("two", NOTICED): 4.0,
                ("two", RESTARTED): 4.0,
                ("two", AGAIN): 2.0,
            },
            {"one": 3, "two": 2},
            id="the same steps are lost twice",
        ),
    ],
)
def test_every_second_has_a_fault_and_a_kind(after, strikes, changes, effective, lost, again):
    made = BEFORE + after
    ended = made[-1].at + 3.0
    found = spent(made, strikes, changes, 0.0, ended)
    assert found.effective == pytest.approx(effective)
    by_name = {(strike.fault, kind): seconds for (strike, kind), seconds in found.lost.items()}
    assert by_name == pytest.approx({(NO_FAULT.fault, STARTED): 9.0, (NO_FAULT.fault, ENDED): 3.0, **lost})
    assert {strike.fault: steps for strike, steps in found.steps_again.items()} == again
    assert found.effective + sum(found.lost.values()) == pytest.approx(ended)
    assert found.ratio == pytest.approx(effective / ended)


def test_two_strikes_of_one_fault_have_each_its_own_seconds():
    strikes = Strike("killed", 13.4), Strike("killed", 21.4)
    after = [Step(4, 20.0), Step(5, 21.0), Step(5, 31.0)]
    found = spent(BEFORE + after, strikes, [15.0, 25.0], 0.0, 31.0)
    assert [found.lost_to(each) for each in strikes] == pytest.approx([6.0 + 1.0, 9.0 + 1.0])
    assert found.steps_again == {strikes[0]: 1, strikes[1]: 1}


def test_growth_is_of_the_medians_of_the_first_and_the_last_quarter():
    steady = [100.0, 900.0, 104.0, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0, 106.0, 90.0, 114.0]
    samples = [{"steady": each, "leaks": 100.0 + i} for i, each in enumerate(steady)]
    samples += [{"leaks": 200.0}] * 3 + [{"rare": 1.0}] * 7
    assert growths(samples) == {"steady": Growth(104.0, 106.0, 900.0), "leaks": Growth(101.0, 200.0, 200.0)}
    assert growths(samples)["steady"].is_flat
    assert not growths(samples)["leaks"].is_flat


def test_what_processes_and_folders_hold(tmp_path):
    process = psutil.Process()
    before = held("own", [process])
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    after = held("own", [process])
    for each in opened:
        os.close(each)
    assert after["own: handles"] - before["own: handles"] == 3
    assert after["own: RSS bytes"] > 1e6
    assert held("none", []) == {}
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(10))
    assert content(tmp_path) == (3, 10)
    assert content(tmp_path / "absent") == (0, 0)
