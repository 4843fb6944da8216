"""What each worker's steps take, by part, and which worker keeps the others waiting.

Shapes: W workers, P parts of a step (`cluster.progress.OF_A_STEP`) and the worker's rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cluster.collectives import sum_over_workers
from cluster.layout import Worker
from cluster.progress import OF_A_STEP

CLEARLY = 1.3
"""Times the others' time for a row: then a worker is slower, and not just now and then."""
WORTH_SHARE = 0.05
"""Of a step: less of a difference costs nobody anything."""
MOST_RANKS = 16
"""Whose curves are tracked: three for each."""


@dataclass(frozen=True)
class RankTime:
    """Seconds a step of one worker, by the host's clock: on a GPU its kernels run on meanwhile."""

    data_s: float
    compute_s: float
    exchange_s: float
    """Waiting for the others' gradients, and adding them up."""
    rows: int
    """Of the batch."""

    @property
    def parts_s(self) -> dict[str, float]:
        """By the name of the part."""
        return {"data": self.data_s, "compute": self.compute_s, "exchange": self.exchange_s}

    @property
    def own_s(self) -> float:
        """Without what it waits for others."""
        return self.data_s + self.compute_s


def rank_times(worker: Worker, rows: int, steps: int) -> tuple[RankTime, ...]:
    """Of every worker, by rank, over the last so many steps; all workers call it at the same time."""
    times_WP = torch.zeros(worker.world, len(OF_A_STEP) + 1, dtype=torch.float64)
    spent_P = [seconds / steps for seconds in worker.progress.spent()]
    times_WP[worker.rank] = torch.tensor([*spent_P, float(rows)], dtype=torch.float64)
    everyones_WP = sum_over_workers(times_WP).tolist()
    return tuple(
        RankTime(data_s, compute_s, wait_s, int(rows)) for data_s, compute_s, wait_s, rows in everyones_WP
    )


def slowest(times: Sequence[RankTime]) -> tuple[int, float] | None:
    """The rank that is clearly slower for its rows than the others, and how many times; None where none is."""
    if len(times) < 2:
        return None
    per_row_s = [each.own_s / each.rows for each in times]
    rank = max(range(len(times)), key=per_row_s.__getitem__)
    usual_s = sorted(per_row_s)[(len(times) - 1) // 2]  # of an even number the faster: of two the other one
    lost_s = (per_row_s[rank] - usual_s) * times[rank].rows
    step_s = times[rank].own_s + times[rank].exchange_s
    clearly = per_row_s[rank] > CLEARLY * usual_s and lost_s > WORTH_SHARE * step_s
    return (rank, per_row_s[rank] / usual_s) if clearly and usual_s > 0 else None


def describe_slowest(times: Sequence[RankTime]) -> str:
    """A part of a log line; empty where no worker is clearly slower."""
    found = slowest(times)
    if found is None:
        return ""
    rank, ratio = found
    return (
        f"  slowest: rank {rank}, {ratio:.1f} times the others (data {times[rank].data_s:.3f} s, "
        f"forward and backward {times[rank].compute_s:.3f} s a step)"
    )


def curves(times: Sequence[RankTime]) -> dict[str, float]:
    """For a tracked run of several workers, up to `MOST_RANKS`."""
    if not 1 < len(times) <= MOST_RANKS:
        return {}
    parts = ((rank, part, s) for rank, each in enumerate(times) for part, s in each.parts_s.items())
    return {f"ranks/{rank}/{part}_seconds": seconds for rank, part, seconds in parts}
