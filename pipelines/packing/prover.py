"""Proves files by the decoder that will read them: DALI, in a process that a broken file may crash."""

import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock

import numpy as np

from cli.errors import Failure
from pipelines.packing.proving_process import BATCH, Placed

ROOT = Path(__file__).parents[2]

SPARE_BYTES = 256 * 2**20
"""Shared memory beyond this is given back after the request that needed it."""

Image = tuple[bytes, np.ndarray]
"""An encoded file, and the pixels that it should decode to: uint8 [H, W, 3]."""


class Prover:
    """Asks a process of its own, which is started anew when a file has crashed it."""

    def __init__(self) -> None:
        self._memory = os.memfd_create("images")
        self._view = np.empty(0, np.uint8)
        self._busy = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: Connection | None = None

    def proved(self, images: Sequence[Image]) -> list[bool]:
        """For each file whether DALI decodes it to its pixels.

        Failure if the process was killed for another reason than a broken file.
        """
        with self._busy:
            answers: list[bool] = []
            for first in range(0, len(images), BATCH):
                batch = images[first : first + BATCH]
                found = self._ask(batch)
                if found is None:  # one of them crashed it
                    found = [(self._ask([image]) or [False])[0] for image in batch]
                answers += found
            return answers

    def _ask(self, images: Sequence[Image]) -> list[bool] | None:
        """The answers of the process; None if it crashed."""
        if self._process is None:
            self._start()
        assert self._requests is not None
        placed = self._place(images)
        try:
            self._requests.send(placed)
            answers = self._requests.recv()
        except (EOFError, ConnectionError):
            self._ended()
            return None
        finally:
            if len(self._view) > SPARE_BYTES:
                self._view = np.empty(0, np.uint8)
                os.ftruncate(self._memory, 0)
        if isinstance(answers, str):
            raise RuntimeError(f"the proving process failed:\n{answers}")
        return answers

    def _start(self) -> None:
        ours, its = socket.socketpair()
        code = [sys.executable, "-m", "pipelines.packing.proving_process", str(its.fileno()), str(self._memory)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with its:
            self._process = subprocess.Popen(
                code,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # the decoders' remarks on broken files
                pass_fds=[its.fileno(), self._memory],
                env={**os.environ, "PYTHONPATH": path},
            )
        self._requests = Connection(ours.detach())
        self._requests.send([])  # answered when DALI is imported: what fails before is not the fault of a file
        try:
            self._requests.recv()
        except (EOFError, ConnectionError) as error:
            code_of_exit = self._ended()
            raise Failure(f"DALI could not be started to prove files (exit {code_of_exit})") from error

    def _ended(self) -> int:
        """Forget the process that has ended; returns its exit code. Failure if it was killed."""
        assert self._process is not None
        assert self._requests is not None
        self._requests.close()
        code = self._process.wait()
        self._process = self._requests = None
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            raise Failure("a process was killed (out of memory?)")
        return code

    def _place(self, images: Sequence[Image]) -> list[Placed]:
        """Write files and pixels to the shared memory."""
        placed, end = [], 0
        for data, pixels_HWC in images:
            height, width, _ = pixels_HWC.shape
            placed.append(Placed(end, len(data), end + len(data), height, width))
            end += len(data) + pixels_HWC.size
        memory = self._mapped(end)
        for (data, pixels_HWC), place in zip(images, placed, strict=True):
            memory[place.file : place.pixels] = np.frombuffer(data, np.uint8)
            memory[place.pixels : place.pixels + pixels_HWC.size].reshape(pixels_HWC.shape)[:] = pixels_HWC
        return placed

    def _mapped(self, size: int) -> np.ndarray:
        """The shared memory, with at least this many bytes."""
        if len(self._view) < size:
            os.ftruncate(self._memory, size)
            self._view = np.frombuffer(mmap.mmap(self._memory, size), np.uint8)  # unmapped with its last view
        return self._view


@cache
def process_prover() -> Prover:
    """The prover of this process: DALI is started once, and ends with the process."""
    return Prover()
