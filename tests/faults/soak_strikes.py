"""What strikes a training again and again: each fault lasts for a random time, and is mended."""

import random
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.faults.faults import FAULTS, damage_newest, worker_of
from tests.faults.training import Training

AWAY_SECONDS, LOST_SECONDS = (5.0, 15.0), (30.0, 45.0)


def _pause_worker(training: Training) -> None:
    worker = worker_of(training)
    worker.suspend()
    _wait()
    with suppress(psutil.NoSuchProcess):
        worker.resume()


def _lose_node(training: Training) -> None:
    FAULTS["node"].strike(training)
    _wait()
    training.bed.repair()


def _cut(training: Training, seconds: tuple[float, float]) -> None:
    machine = random.choice([machine for machine, found in training.bed.workers().items() if found])
    training.bed.network.cut(machine)
    time.sleep(random.uniform(*seconds))
    training.bed.network.mend(machine)


def _cut_link(training: Training) -> None:
    _cut(training, AWAY_SECONDS)


def _cut_for_good(training: Training) -> None:
    """Until Ray has given its node up."""
    _cut(training, LOST_SECONDS)
    training.bed.repair()


def _lose_head(training: Training) -> None:
    """Its workers make steps until the command ends, which nothing else shall be the cause of."""
    FAULTS["head"].strike(training)
    training.end()


def _server_away(training: Training) -> None:
    training.bed.kill_server()
    _wait()
    training.bed.start_server()


def _damage(training: Training) -> None:
    training.process.kill()
    while any(training.bed.workers().values()):  # they outlive the command for a moment, and save
        time.sleep(0.2)
    damage_newest(training)


def _wait() -> None:
    time.sleep(random.uniform(*AWAY_SECONDS))


STRIKES: dict[str, tuple[str, Callable[[Training], None]]] = {
    "worker": ("a worker is killed", FAULTS["worker"].strike),
    "workers": ("all workers are killed", FAULTS["workers"].strike),
    "stopped": ("a worker is stopped, and goes on", _pause_worker),
    "hang": ("a worker is stopped for good", FAULTS["stopped"].strike),
    "memory": ("a worker gets no more memory", FAULTS["memory"].strike),
    "node": ("a node is killed, and brought back", _lose_node),
    "cut": ("a node's link is cut", _cut_link),
    "long-cut": ("a node's link is cut until it is given up", _cut_for_good),
    "controller": ("Ray Train's controller is killed", FAULTS["controller"].strike),
    "head": ("the head is killed: a new cluster, repeated", _lose_head),
    "mlflow": ("MLflow is killed, and back", _server_away),
    "sigterm": ("the command: SIGTERM, repeated", FAULTS["sigterm"].strike),
    "driver": ("the command: SIGKILL, repeated", FAULTS["driver"].strike),
    "twice": ("the command is started a second time", FAULTS["twice"].strike),
    "damaged": ("the command: SIGKILL, newest checkpoint damaged, repeated", _damage),
}
"""Name -> title, what is done. A command that has ended is repeated by whoever strikes it."""
