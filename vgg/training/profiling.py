"""A trace of some updates by torch's profiler, for who asks where the time goes (`--train.profile`).

    an update lasts from one batch to the next
    let the first ones pass, which allocate memory and compile
    trace so many, leave the trace and a summary in the run's folder

What a trace holds: https://docs.pytorch.org/docs/stable/profiler.html; ui.perfetto.dev opens it.
"""

import tempfile
from collections.abc import Generator, Iterable, Iterator
from itertools import count
from pathlib import Path

from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEventAvg
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from cli.errors import Failure
from cluster.layout import Worker
from pipelines.loading.batch import Batch
from pipelines.storage.folder import Folder

FOLDER = "profile"
"""In the run's folder."""
PASSED, WARM_UP = 5, 1
"""Updates that are not traced, and of these those with the profiler on already."""
DATA_WAIT, UPDATE = "data wait", "ProfilerStep*"
COMMUNICATION = ("gloo:", "nccl")
ROWS = 30


def traced(batches: Iterator[Batch], updates: int, folder: Folder, worker: Worker) -> Generator[Batch]:
    """The batches, with a trace of `updates` updates of this attempt. Close the generator after the last."""
    written = False

    def keep(profiler: profile) -> None:
        nonlocal written
        written = True
        try:
            _write(profiler, folder.child(FOLDER), f"rank-{worker.rank}")
        except (OSError, Failure) as error:
            print(f"the profile of rank {worker.rank} could not be written: {error}", flush=True)

    activities = [ProfilerActivity.CPU]
    if worker.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    windows = schedule(wait=PASSED - WARM_UP, warmup=WARM_UP, active=updates, repeat=1)
    try:
        with profile(activities=activities, schedule=windows, on_trace_ready=keep) as profiler:
            for update in count():
                if update:
                    profiler.step()
                with record_function(DATA_WAIT):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
    finally:
        if not written:
            print(f"--train.profile: no update was traced: the first {PASSED} never are", flush=True)


def _write(profiler: profile, folder: Folder, name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        trace = Path(temporary) / f"{name}.trace.json.gz"
        profiler.export_chrome_trace(str(trace))
        folder.write(trace.name, trace.read_bytes())
    folder.write(f"{name}.txt", summary(profiler.key_averages()).encode())


def summary(events: EventList) -> str:
    """Milliseconds of an update by part, then the costliest operators and kernels."""
    on_gpu = any(event.device_type == DeviceType.CUDA for event in events)
    lines = [f"{part:<16}{ms:10.3f} ms an update" for part, ms in parts(events).items()]
    by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return "\n".join([*lines, "", events.table(sort_by=by, row_limit=ROWS, max_name_column_width=60)])


def parts(events: Iterable[FunctionEventAvg]) -> dict[str, float]:
    """Milliseconds of an update: as a whole, and in each part. Parts of other threads or of a GPU overlap.

    data wait: for the loader. communication: the network's operations, which wait for other workers too.
    operators: on a CPU's threads, of which on a GPU most is the launching of kernels. kernels: of the GPU.
    """
    microseconds = {"update": 0.0, "data wait": 0.0, "communication": 0.0, "operators": 0.0, "kernels": 0.0}
    updates = 1
    for event in events:
        on_gpu = event.device_type == DeviceType.CUDA
        if event.key == UPDATE or event.key == DATA_WAIT:
            if not on_gpu:  # a GPU's row of these spans its kernels again
                microseconds["update" if event.key == UPDATE else "data wait"] += event.cpu_time_total
                updates = event.count if event.key == UPDATE else updates
        elif str(event.key).startswith(COMMUNICATION):
            microseconds["communication"] += event.device_time_total if on_gpu else event.cpu_time_total
        elif on_gpu:
            microseconds["kernels"] += event.self_device_time_total
        else:
            microseconds["operators"] += event.self_cpu_time_total
    return {part: total / 1000 / updates for part, total in microseconds.items()}
