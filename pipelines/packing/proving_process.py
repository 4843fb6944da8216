"""Decodes files with DALI at packing: `python -m pipelines.packing.proving_process SOCKET MEMORY`.

A broken file may crash DALI: then this process ends and the one that packs goes on. It also ends when the other
end of its socket is closed, as it is when the packing process is killed. Both file descriptors are inherited.
"""

import mmap
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from pipelines.loading.dali_graphs import whole_image_graph
from pipelines.packing.encode import TOLERANCE_LEVELS, differences

BATCH = 16
"""Most files in a request."""


class Placed(NamedTuple):
    """Where a file and the pixels it should decode to lie in the shared memory."""

    file: int
    size: int
    pixels: int
    height: int
    width: int


class _Decoder:
    """DALI's decoder as readers of a data set use it."""

    def __init__(self) -> None:
        self._files: list[np.ndarray] = []
        self._pipe: Any = None

    def decode(self, files: list[np.ndarray]) -> Any:
        """The decoded images. RuntimeError if one of them cannot be decoded."""
        if self._pipe is None:
            self._pipe = whole_image_graph(
                lambda: (self._files,),
                "cpu",
                batch_size=BATCH,
                num_threads=1,
                device_id=None,
                prefetch_queue_depth=1,
            )
            self._pipe.build()
        self._files = files
        try:
            (decoded,) = self._pipe.run()
        except RuntimeError:
            self._pipe = None  # a failed pipeline stays so
            raise
        return decoded


def _proved(decoder: _Decoder, memory: np.ndarray, placed: list[Placed]) -> list[bool]:
    """For each file whether DALI decodes it to its pixels."""
    files = [memory[place.file : place.file + place.size] for place in placed]
    try:
        decoded = decoder.decode(files)
    except RuntimeError:
        if len(placed) == 1:
            return [False]
        return [_proved(decoder, memory, [place])[0] for place in placed]
    return [_equal(np.asarray(decoded.at(i)), memory, place) for i, place in enumerate(placed)]


def _equal(found_HWC: np.ndarray, memory: np.ndarray, place: Placed) -> bool:
    shape = place.height, place.width, 3
    size = place.height * place.width * 3
    wanted_HWC = memory[place.pixels : place.pixels + size].reshape(shape)
    if found_HWC.shape != shape:
        return False
    if np.array_equal(found_HWC, wanted_HWC):
        return True
    return int(differences(found_HWC, wanted_HWC).max()) <= TOLERANCE_LEVELS


def main() -> None:
    """Answer requests until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; the packing process decides
    socket, memory_file = int(sys.argv[1]), int(sys.argv[2])
    requests, decoder, memory = Connection(socket), _Decoder(), _Memory(memory_file)
    try:
        while True:
            placed = requests.recv()
            answer: list[bool] | str
            try:
                answer = _proved(decoder, memory.bytes(), placed) if placed else []
            except Exception:  # noqa: BLE001  # told to the packing process, which raises it
                answer = traceback.format_exc()
            requests.send(answer)
    except (EOFError, ConnectionError):
        os._exit(0)


class _Memory:
    """The shared memory, mapped anew when its size has changed."""

    def __init__(self, file: int) -> None:
        self._file, self._mapped = file, np.empty(0, np.uint8)

    def bytes(self) -> np.ndarray:
        """All of it, uint8."""
        size = os.fstat(self._file).st_size
        if size != len(self._mapped):
            memory = mmap.mmap(self._file, size, access=mmap.ACCESS_READ)  # unmapped with its last view
            self._mapped = np.frombuffer(memory, np.uint8)
        return self._mapped


if __name__ == "__main__":
    main()
