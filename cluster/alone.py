"""A Ray task as the only worker of a job."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
import torch
import torch.distributed as dist

from cluster.layout import Worker


@contextmanager
def only_worker() -> Iterator[Worker]:
    """This task as a worker, on the GPU and the cores that Ray gave it.

    Within a process group of one, which torch's DDP asks for; it opens no port.
    """
    threads = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    torch.set_num_threads(threads)
    device = torch.device("cuda", 0) if ray.get_gpu_ids() else torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Worker(0, 1, 0, device, threads)
    finally:
        dist.destroy_process_group()
