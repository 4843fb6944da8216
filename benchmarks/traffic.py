"""Bytes that a worker sends in one step, and what a step takes by a model: counted, not measured.

Ring algorithms, as NCCL and Gloo use them: of P numbers on N workers, each sends 2 (N - 1) / N · P in an
all-reduce, and (N - 1) / N · P in an all-gather that ends with P.
"""

from dataclasses import dataclass

from cluster.parallel.gathered import factors_are_smaller
from cluster.parallel.tree_sum import LEAVES, nodes_of
from cluster.partition import rank_slice
from vgg.net.architecture import Architecture, Layer, layers, training_flops

LAYOUTS = ("ddp", "ddp bf16", "fixed-order", "ddp gathered", "fixed-order gathered")


def bytes_sent(
    architecture: Architecture, batch: int, workers: int, layout: str, factor_bytes: int = 4
) -> float:
    """By the busiest worker in one step. `factor_bytes`: of a number of the gathered factors: 2 in bf16.

    ValueError for a fixed order on more workers than it has leaves.
    """
    learning = [layer for layer in layers(architecture) if layer.parameters]
    gathered = [layer for layer in learning if "gathered" in layout and _gathers(layer, batch)]
    summed = sum(layer.parameters for layer in learning if layer not in gathered)
    factors = sum(batch * (layer.inputs + layer.outputs) for layer in gathered)
    share = (workers - 1) / workers
    if "fixed-order" in layout:
        # Every subtree that a worker holds goes out once; the finished slices are gathered.
        if workers > LEAVES:
            raise ValueError(f"a fixed order has {LEAVES} leaves")
        most = max(len(nodes_of(rank_slice(rank, workers, LEAVES))) for rank in range(workers))
        passes = most + 1
    else:
        passes = 2
    return share * (passes * summed * (2 if layout == "ddp bf16" else 4) + factors * factor_bytes)


def _gathers(layer: Layer, batch: int) -> bool:
    return layer.kind == "linear" and factors_are_smaller(layer.inputs, layer.outputs, batch)


@dataclass(frozen=True)
class Machine:
    """One GPU and its link, as the model sees them; the defaults are those of an H200."""

    flop_per_s: float = 0.6 * 790e12
    """60 % of the measured bf16 matrix rate."""
    memory_bytes_per_s: float = 4.3e12
    node_bytes_per_s: float = 450e9
    """NVLink, one way, between the GPUs of a node."""
    network_bytes_per_s: float = 400e9 / 8
    """400 Gb/s for each GPU, between nodes."""
    node_gpus: int = 8

    def link(self, workers: int) -> float:
        """Bytes/s of the slowest link in a ring over so many GPUs."""
        return self.node_bytes_per_s if workers <= self.node_gpus else self.network_bytes_per_s


def step_seconds(
    architecture: Architecture, batch: int, workers: int, layout: str, machine: Machine
) -> tuple[float, float]:
    """Least and most seconds of a step in bf16: communication hides behind the backward pass, or not at all.

    Computing = convolutions and FC forward and input gradients, divided by the workers
              + FC weight gradients: divided, or whole on each worker where they are gathered
              + SGD and casts, on each worker: read weight, gradient, velocity, write two, cast one.
    The backward pass takes two thirds of what is divided.
    """
    found = layers(architecture)
    gathered = [layer for layer in found if "gathered" in layout and _gathers(layer, batch)]
    whole = 2 * batch * sum(layer.weights for layer in gathered) / machine.flop_per_s
    divided = (training_flops(architecture) * batch / machine.flop_per_s - whole) / workers
    update = sum(layer.parameters for layer in found) * (5 * 4 + 4 + 2) / machine.memory_bytes_per_s
    sending = bytes_sent(architecture, batch, workers, layout, factor_bytes=2) / machine.link(workers)
    computing = divided + whole + update
    return computing + max(0.0, sending - divided * 2 / 3), computing + sending


def table(architecture: Architecture, batch: int, machine: Machine) -> str:
    """Markdown: MB sent a worker, milliseconds of a step and efficiency, for 2 to 256 workers."""
    alone = step_seconds(architecture, batch, 1, "ddp", machine)[1]
    head = "| N | " + " | ".join(LAYOUTS) + " |"
    rows = [head, "|---" * (len(LAYOUTS) + 1) + "|"]
    for workers in (2, 4, 8, 16, 32, 64, 128, 256):
        cells = []
        for layout in LAYOUTS:
            if "fixed-order" in layout and workers > LEAVES:
                cells.append("–")
                continue
            sent = bytes_sent(architecture, batch, workers, layout, factor_bytes=2) / 1e6
            least, most = step_seconds(architecture, batch, workers, layout, machine)
            share = [100 * alone / workers / seconds for seconds in (most, least)]
            cells.append(
                f"{sent:.0f} MB, {1e3 * least:.1f}–{1e3 * most:.1f} ms, {share[0]:.0f}–{share[1]:.0f} %"
            )
        rows.append(f"| {workers} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
