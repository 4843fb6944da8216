"""What can be learnt of a worker's process from beside it, on its node, and its end where it does not go on.

A stopped process can say nothing itself: py-spy, which Ray brings along, reads its memory without waking it.
"""

import subprocess
import sys
from pathlib import Path

import psutil

from cluster.processes import ProcessIdentity, start_time

STACK_SECONDS = 3.0
THREAD = "TrainingThread"
"""What Ray Train calls the thread that a worker works in."""
STATES = {
    psutil.STATUS_STOPPED: "its process is stopped (SIGSTOP)",
    psutil.STATUS_TRACING_STOP: "its process is stopped by a debugger",
    psutil.STATUS_DISK_SLEEP: "its process waits for a disk or device (state D)",
}


class Attendant:
    """The actor on a node."""

    def identify(self, pid: int) -> ProcessIdentity | None:
        """See `identify`."""
        return identify(pid)

    def inspect(self, process: ProcessIdentity) -> tuple[str, str] | None:
        """See `inspect`."""
        return inspect(process)

    def kill(self, process: ProcessIdentity) -> bool:
        """See `kill`."""
        return kill(process)


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has this PID now; None where it is gone."""
    try:
        return ProcessIdentity(pid, start_time(pid))
    except psutil.NoSuchProcess:
        return None


def inspect(process: ProcessIdentity) -> tuple[str, str] | None:
    """The state of a process, for people, empty where it is an ordinary one, and the stack of the thread that
    works; None where the process is gone."""
    found = process.process()
    if found is None:
        return None
    try:
        state = STATES.get(found.status(), "")
    except psutil.NoSuchProcess:
        return None
    return state, _stack(process.pid)


def kill(process: ProcessIdentity) -> bool:
    """SIGKILL; whether the process was still there."""
    found = process.process()
    if found is None:
        return False
    try:
        found.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def _stack(pid: int) -> str:
    """By py-spy; why there is none, where it cannot."""
    command = [str(Path(sys.executable).with_name("py-spy")), "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=STACK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"(py-spy: {error})"
    if done.returncode != 0:
        return f"(py-spy: {(done.stderr.strip() or 'no answer').splitlines()[-1]})"
    return working_thread(done.stdout)


def working_thread(dump: str) -> str:
    """Of all threads that py-spy lists, the one that works, or all where none is known by its name."""
    threads = dump.strip().split("\nThread ")
    return next((thread for thread in threads if THREAD in thread.partition("\n")[0]), dump).strip()
