"""Worker groups of Ray Train: what workers tell while they run, and what Ray's own actors are handed."""

import os
from pathlib import Path

import pytest

from cli.errors import Failure
from cluster import trainer
from cluster.layout import Layout, Worker

LAYOUT = Layout(workers=2)


def telling(worker: Worker, job: int) -> tuple[int, str | None]:
    """Rank 0 tells so many messages."""
    if worker.rank == 0 and worker.tell is not None:
        for number in range(job):
            worker.tell(number)
    return worker.world, os.environ.get("RAY_ADDRESS")


def test_messages_come_in_order_and_none_is_lost(cluster):
    told: list[int] = []
    world, address = trainer.run(telling, 200, LAYOUT, told.append)
    assert told == list(range(200))
    assert world == 2
    # What workers are handed their controller was, and the actor that it starts: where several clusters run on
    # a machine, that actor cannot find its own.
    assert address == cluster.head.address
    assert os.environ["RAY_ADDRESS"] == cluster.head.address


def test_without_a_listener_there_is_nobody_to_tell(cluster):
    def silent(worker: Worker, job: None) -> bool:
        return worker.tell is None

    assert trainer.run(silent, None, Layout(workers=1))


def test_a_range_of_workers_starts_anew_after_a_failure(cluster, tmp_path, capsys):
    def failing_once(worker: Worker, marker: str) -> int:
        try:
            Path(marker).mkdir()
        except FileExistsError:
            return worker.world
        raise RuntimeError("lost")

    layout = Layout(workers=2, fewest_workers=1, max_failures=1)
    assert trainer.run(failing_once, str(tmp_path / "marker"), layout) == 2
    assert "of 2 workers some were lost" in capsys.readouterr().err

    def failing(worker: Worker, job: None) -> None:
        raise RuntimeError("lost again")

    with pytest.raises(Failure, match="lost again"):
        trainer.run(failing, None, Layout(workers=1, fewest_workers=1, max_failures=0))
