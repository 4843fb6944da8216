"""What the processes of a cluster hold while trainings come and go, by samples from /proc: whether it grows."""

import os
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 10.0
SHARED_MEMORY = Path("/dev/shm")
ALLOWED_GROWTH = 0.1
"""Share of the first quarter's median beyond which something has grown."""

Sample = dict[str, float]
"""What -> how much."""


@dataclass(frozen=True)
class Growth:
    """What was held, in the first and in the last quarter of the time."""

    first: float
    last: float
    most: float

    @property
    def is_flat(self) -> bool:
        """Whether it has not grown by much."""
        return self.last <= self.first * (1 + ALLOWED_GROWTH)


def growths(samples: Sequence[Sample]) -> dict[str, Growth]:
    """Medians of the first and last quarter of everything's own samples, where there are at least eight."""
    found = {}
    for what in dict.fromkeys(key for sample in samples for key in sample):
        values = [sample[what] for sample in samples if what in sample]
        if quarter := len(values) // 4 if len(values) >= 8 else 0:
            first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
            found[what] = Growth(first, last, max(values))
    return found


class Sampler:
    """Looks every ten seconds, from a thread of its own, until it is stopped."""

    def __init__(
        self, processes: Callable[[], Mapping[str, Sequence[psutil.Process]]], folders: Mapping[str, Path]
    ) -> None:
        """`processes`: by what they are called; `folders`: what is counted, such as Ray's temporary files."""
        self.samples: list[Sample] = []
        self._processes, self._folders = processes, folders
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> list[Sample]:
        """Look no more; all samples."""
        self._ended.set()
        self._thread.join()
        return self.samples

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            sample: Sample = {}
            for name, found in self._processes().items():
                sample |= held(name, found)
            for name, folder in self._folders.items():
                files, size = content(folder)
                sample |= {f"{name}: files": files, f"{name}: bytes": size}
            shared = os.statvfs(SHARED_MEMORY)
            sample["/dev/shm: bytes"] = (shared.f_blocks - shared.f_bfree) * shared.f_frsize
            sample["/dev/shm: files"] = content(SHARED_MEMORY)[0]
            self.samples.append(sample)


def held(name: str, processes: Sequence[psutil.Process]) -> Sample:
    """Memory, open files and threads of these processes, each its mean; nothing where there are none."""
    found = []
    for each in processes:
        with suppress(psutil.Error, FileNotFoundError):
            found.append((each.memory_info().rss, each.num_fds(), each.num_threads()))
    if not found:
        return {}
    means = [statistics.fmean(values) for values in zip(*found, strict=True)]
    return dict(zip((f"{name}: RSS bytes", f"{name}: handles", f"{name}: threads"), means, strict=True))


def content(folder: Path) -> tuple[int, int]:
    """Files and folders below a folder, and their bytes; what vanishes meanwhile is not counted."""
    count, size = 0, 0
    for place, folders, files in os.walk(folder):
        count += len(folders) + len(files)
        for each in files:
            with suppress(OSError):
                size += (Path(place) / each).lstat().st_size
    return count, size
