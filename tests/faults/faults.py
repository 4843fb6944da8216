"""What happens to a training: each fault strikes while it runs; some are repaired before its command is
repeated."""

import json
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.faults.testbed import kill_tree
from tests.faults.training import Training

SHORT_CUT_SECONDS, LONG_CUT_SECONDS, AWAY_SECONDS = 10.0, 30.0, 15.0


def _nothing(_: Training) -> None:
    """What needs no repair."""


@dataclass(frozen=True)
class Fault:
    """Strikes a training; `repair` comes before its command is repeated, if it has ended."""

    title: str
    strike: Callable[[Training], None]
    repair: Callable[[Training], None] = _nothing
    flags: tuple[str, ...] = ()
    own_disk: bool = False
    """OUT is on the small disk."""


def _busy_machines(training: Training) -> dict[int, list[psutil.Process]]:
    return {machine: found for machine, found in training.bed.workers().items() if found}


def worker_of(training: Training) -> psutil.Process:
    """Some worker."""
    return random.choice([each for found in _busy_machines(training).values() for each in found])


def _kill_worker(training: Training) -> None:
    worker_of(training).kill()


def _kill_workers(training: Training) -> None:
    for found in _busy_machines(training).values():
        for each in found:
            each.kill()


def _stop_worker(training: Training) -> None:
    worker_of(training).suspend()


def _kill_node(training: Training) -> None:
    machine = random.choice(list(_busy_machines(training)))
    kill_tree(training.bed.nodes()[machine].pid)


def _lose_node_for_a_while(training: Training) -> None:
    """It is back once fewer workers have made a step; meanwhile there is no spare one."""
    bed, busy = training.bed, list(_busy_machines(training))
    lost = random.choice(busy)
    for machine in {*bed.nodes()} - {*busy} | {lost}:
        kill_tree(bed.nodes()[machine].pid)
    killed_at = time.time()
    while training.process.poll() is None:
        if any(moment > killed_at + 1 for _, moment in bed.points(training.out.name)):
            break
        time.sleep(0.2)
    bed.repair()


def _take_memory(training: Training) -> None:
    """A worker gets no more of it: its next allocation fails."""
    worker_of(training).rlimit(psutil.RLIMIT_AS, (2**20, 2**20))


def _kill_head(training: Training) -> None:
    kill_tree(training.bed.head.pid)


def _kill_controller(training: Training) -> None:
    for each in training.bed.named("TrainController"):
        each.kill()


def _signal_driver(number: signal.Signals) -> Callable[[Training], None]:
    def strike(training: Training) -> None:
        training.driver.send_signal(number)

    return strike


def _cut_link(seconds: float) -> Callable[[Training], None]:
    def strike(training: Training) -> None:
        machine = random.choice(list(_busy_machines(training)))
        training.bed.network.cut(machine)
        time.sleep(seconds)
        training.bed.network.mend(machine)

    return strike


def _server_away(training: Training) -> None:
    training.bed.kill_server()
    time.sleep(AWAY_SECONDS)
    training.bed.start_server()


def _fill_disk(training: Training) -> None:
    with suppress(OSError), (training.out / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))


def _empty_disk(training: Training) -> None:
    (training.out / "filler").unlink()


def damage_newest(training: Training) -> None:
    """A byte of the newest checkpoint's weights is another one."""
    folder = training.out / "checkpoints"
    newest = folder / json.loads((folder / "index.json").read_text())["last"]
    largest = max(newest.iterdir(), key=lambda file: file.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 255]))


def _start_second(training: Training) -> None:
    """With one worker, for which there is room beside the first command's two. It may succeed after those."""
    command = [*training.command, "--layout.workers=1"]
    second = training.bed.start(command, training.log.with_suffix(".second.log"))
    is_refused = second.wait(300) != 0
    assert is_refused or training.process.poll() is not None, "two trainings wrote to one folder"


FAULTS = {
    "worker": Fault("a worker is killed", _kill_worker),
    "workers": Fault("all workers are killed", _kill_workers),
    "stopped": Fault("a worker stops (SIGSTOP)", _stop_worker, flags=("--layout.hang-seconds=20",)),
    "node": Fault("a node is lost", _kill_node),
    "elastic": Fault(
        "a node is lost of --layout.workers 1..2, and comes back",
        _lose_node_for_a_while,
        flags=("--layout.fewest-workers=1",),
    ),
    "memory": Fault("a worker gets no more memory", _take_memory, flags=("--layout.hang-seconds=20",)),
    "head": Fault("the head is lost", _kill_head),
    "controller": Fault("Ray Train's controller is killed", _kill_controller),
    "driver": Fault("the command is killed", _signal_driver(signal.SIGKILL)),
    "sigterm": Fault("SIGTERM to the command", _signal_driver(signal.SIGTERM)),
    "short-cut": Fault(f"a node's link is cut for {SHORT_CUT_SECONDS:g} s", _cut_link(SHORT_CUT_SECONDS)),
    "long-cut": Fault(f"a node's link is cut for {LONG_CUT_SECONDS:g} s", _cut_link(LONG_CUT_SECONDS)),
    "mlflow": Fault(f"MLflow is killed, and back after {AWAY_SECONDS:g} s", _server_away),
    "disk": Fault("the disk of the run's folder is full", _fill_disk, _empty_disk, own_disk=True),
    "damaged": Fault(
        "the command is killed, and the newest checkpoint damaged",
        _signal_driver(signal.SIGKILL),
        damage_newest,
    ),
    "twice": Fault("the same command is started twice", _start_second),
}
