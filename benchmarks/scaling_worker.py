"""One worker of `benchmarks.scaling`: times each layout in turn and counts what its interface sends.

Shapes: B rows of this worker, C = 3, H and W image sides, F inputs of fc6, K classes.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from cluster.layout import Layout, Worker
from cluster.parallel.choose import gradient_reducer
from cluster.partition import rank_slice
from vgg.net.architecture import Architecture
from vgg.net.module import VGG

CPU = torch.device("cpu")
OURS = {
    "ddp": Layout(reduce="ddp", fc="all-reduce"),
    "fixed-order": Layout(reduce="fixed-order", fc="all-reduce"),
    "ddp gathered": Layout(reduce="ddp", fc="gathered"),
    "fixed-order gathered": Layout(reduce="fixed-order", fc="gathered"),
}
PEERS: dict[str, Callable[..., Any] | None] = {"torch DDP": None, "torch DDP bf16": bf16_compress_hook}


@dataclass(frozen=True)
class Setting:
    """What all workers measure."""

    world: int
    address: str
    """Of rank 0, with a port."""
    scale: int
    """Channels, units, classes and rows are those of configuration D at a batch of 256, divided by this."""
    steps: int
    rounds: int

    @property
    def batch(self) -> int:
        """Rows of the global batch."""
        return 256 // self.scale


class Proportioned(nn.Module):
    """Configuration D on 32×32 pixels, whose last map is repeated 7×7 times: the layers that learn have the
    proportions that they have on 224×224."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.convolutions = VGG(Architecture("D", 10, 32, 1 / scale))
        for name in ("fc6", "fc7", "fc8"):
            delattr(self.convolutions, name)
        self.fc6 = nn.Linear(512 * 49 // scale, 4096 // scale)
        self.fc7 = nn.Linear(4096 // scale, 4096 // scale)
        self.fc8 = nn.Linear(4096 // scale, 1000 // scale)
        for parameter in self.convolutions.parameters():
            nn.init.normal_(parameter, std=0.05)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Class scores [B, K]."""
        maps_BCHW = self.convolutions.features(images_BCHW)
        hidden_BF = maps_BCHW.expand(-1, -1, 7, 7).flatten(1)
        scores_BK: torch.Tensor = self.fc8(F.relu(self.fc7(F.relu(self.fc6(hidden_BF)))))
        return scores_BK


def measure(setting: Setting, rank: int) -> dict[str, dict[str, float]]:
    """Median seconds of a step, and bytes sent in one, by layout."""
    steps = {name: _ours(layout, setting, rank) for name, layout in OURS.items()}
    steps |= {name: _peer(hook, setting, rank) for name, hook in PEERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    sent: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(setting.rounds + 1):
        for name, step in steps.items():
            dist.barrier()
            before, started = _bytes_sent(), time.perf_counter()
            for _ in range(setting.steps):
                step()
            dist.barrier()
            if round_:  # the first makes buffers
                seconds[name].append((time.perf_counter() - started) / setting.steps)
                sent[name].append((_bytes_sent() - before) / setting.steps)
    return {
        name: {"seconds": statistics.median(seconds[name]), "bytes_sent": statistics.median(sent[name])}
        for name in steps
    }


def _ours(layout: Layout, setting: Setting, rank: int) -> Callable[[], None]:
    torch.manual_seed(0)
    net = Proportioned(setting.scale)
    images_BCHW, labels_B = _batch(setting)
    reducer = gradient_reducer(
        net, Worker(rank, setting.world, rank, CPU, 1), layout, setting.batch, images_BCHW[:1]
    )
    own = slice(reducer.rows.start, reducer.rows.stop)
    images_BCHW, labels_B = images_BCHW[own], labels_B[own]
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def loss_of(rows: slice) -> torch.Tensor:
        scores_BK = reducer.module(images_BCHW[rows])
        return F.cross_entropy(scores_BK, labels_B[rows], reduction="sum") / setting.batch

    def step() -> None:
        net.zero_grad(set_to_none=True)
        reducer.backward(loss_of, scaler)

    return step


def _peer(hook: Callable[..., Any] | None, setting: Setting, rank: int) -> Callable[[], None]:
    torch.manual_seed(0)
    ddp = DistributedDataParallel(Proportioned(setting.scale), gradient_as_bucket_view=True)
    if hook is not None:
        ddp.register_comm_hook(None, hook)
    images_BCHW, labels_B = _batch(setting)
    rows = rank_slice(rank, setting.world, setting.batch)
    images_BCHW, labels_B = images_BCHW[rows.start : rows.stop], labels_B[rows.start : rows.stop]

    def step() -> None:
        ddp.zero_grad()
        F.cross_entropy(ddp(images_BCHW), labels_B).backward()

    return step


def _batch(setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images_BCHW = torch.randn(setting.batch, 3, 32, 32, generator=generator)
    labels_B = torch.randint(0, 1000 // setting.scale, (setting.batch,), generator=generator)
    return images_BCHW.contiguous(memory_format=torch.channels_last), labels_B


def _bytes_sent() -> int:
    interface = os.environ["GLOO_SOCKET_IFNAME"]
    return int(Path(f"/sys/class/net/{interface}/statistics/tx_bytes").read_text())


def main() -> None:
    """Measure, and print the result as one line of JSON."""
    setting, rank = Setting(**json.loads(sys.argv[1])), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://{setting.address}", rank=rank, world_size=setting.world)
    try:
        found = measure(setting, rank)
    finally:
        dist.destroy_process_group()
    print(json.dumps({"rank": rank, "setting": asdict(setting), "layouts": found}), flush=True)


if __name__ == "__main__":
    main()
