"""One attempt at a training at a time may write to a run's folder: `lease.json` says which.

The holder renews its lease. Another attempt takes it over when the holder's process has ended, as far as it ran
on the same machine, or when the lease has not been renewed for a while by the clock of who waits. So a job that
lives on after Ctrl-C, or a dying cluster beside a new one, does not delete the checkpoints of the other.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli.errors import Failure, UserError
from cluster.processes import ProcessIdentity, start_time
from pipelines.storage.folder import Folder
from pipelines.storage.patience import Patience, StoreUnavailable

FILE = "lease.json"
RENEW_SECONDS = 5.0
LAPSE_SECONDS = 30.0
"""A lease that was not renewed for so long is nobody's."""
POLL_SECONDS = 1.0
RELEASE_SECONDS = 20.0  # how long a finished training waits for its store to give the lease back


@dataclass(frozen=True)
class Holder:
    """The attempt that holds a lease, and the process that renews it."""

    attempt: str
    host: str
    machine: str
    """Boot and process namespace: where `pid` is a process."""
    pid: int
    started: float
    renewals: int = 0

    @classmethod
    def here(cls, attempt: str) -> "Holder":
        """This process."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        return cls(attempt, socket.gethostname(), machine, os.getpid(), start_time(os.getpid()))


class Lease:
    """The lease of a run's folder for one attempt. The attempt's restarted processes share it."""

    def __init__(self, run: Folder, attempt: str) -> None:
        self._run, self._me = run.underway(), Holder.here(attempt)
        # A renewal that waited for its store could overwrite the lease of who took it over meanwhile.
        self._impatient = run.underway(Patience(0.0, StoreUnavailable))
        self._stopped = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self) -> None:
        """Take the lease, waiting while another attempt may still hold it. UserError if it keeps renewing."""
        seen, since, first = None, time.monotonic(), True
        while (holder := self._read()) is not None and not self._may_take(holder):
            if holder != seen:
                if seen is not None and holder.attempt == seen.attempt:
                    raise UserError(
                        f"--out {self._run.uri} is being written by another training ({holder.host}, process "
                        f"{holder.pid}): stop it (ray job stop) or choose another --out"
                    )
                seen, since = holder, time.monotonic()
            elif time.monotonic() - since > LAPSE_SECONDS:
                break
            if first:
                print(f"{self._run.uri} was in use by {holder.host}, process {holder.pid}: waiting", flush=True)
                first = False
            time.sleep(POLL_SECONDS)
        self._write(self._run)
        self._renewing.start()

    def check(self) -> None:
        """Failure if another attempt has taken the lease."""
        holder = self._read()
        if holder is None or holder.attempt != self._me.attempt:
            by = "deleted" if holder is None else f"taken over by {holder.host}, process {holder.pid}"
            raise Failure(f"the lease of {self._run.uri} was {by}: this training stops without touching it")

    def release(self) -> None:
        """Let another attempt take the lease at once."""
        self._stopped.set()
        if self._renewing.is_alive():
            self._renewing.join()
        run = self._run.underway(Patience(RELEASE_SECONDS, StoreUnavailable))
        try:
            holder = self._read(run)
            if holder is not None and holder.attempt == self._me.attempt:
                run.delete_file(FILE)
        except StoreUnavailable as error:
            print(f"{error}: the lease was not given back, and lapses by itself", flush=True)
        if self._run.local is not None:
            with suppress(OSError):  # not empty, as it is but after a mistake
                self._run.local.rmdir()

    def _may_take(self, holder: Holder) -> bool:
        if holder.attempt == self._me.attempt:
            return True
        same_machine = holder.machine == self._me.machine
        return same_machine and not ProcessIdentity(holder.pid, holder.started).alive()

    def _renew(self) -> None:
        renewals = 0
        while not self._stopped.wait(RENEW_SECONDS):
            renewals += 1
            try:
                holder = self._read(self._impatient)
                if holder is None or holder.attempt != self._me.attempt:
                    return  # `check` says so before anything is written
                self._write(self._impatient, renewals)
            except StoreUnavailable:
                continue  # renewed at the next turn, or the lease lapses

    def _read(self, run: Folder | None = None) -> Holder | None:
        """None where there is no lease, or none that can be read."""
        try:
            found: dict[str, Any] = json.loads((run or self._run).read(FILE))
            return Holder(**found)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            return None

    def _write(self, run: Folder, renewals: int = 0) -> None:
        run.write_json(FILE, {**asdict(self._me), "renewals": renewals})
