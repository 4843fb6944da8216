"""The finished steps of a study as numbers: errors by seed, their mean and spread, differences between nets."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from pipelines.storage.folder import Folder
from vgg.metrics.accuracy import best_scored
from vgg.metrics.bootstrap import Difference, paired_bootstrap
from vgg.metrics.interval import learnt_nothing
from vgg.metrics.rows import blocks_of
from vgg.studies.graph import Evaluation, Node, Training
from vgg.studies.record import StepResult
from vgg.testing import posteriors


@dataclass(frozen=True)
class TestedRow:
    """One step's net, or fusion, by one protocol at one choice of scales, over all seeds that are done."""

    step: str
    kind: str
    protocol: str
    scales: str
    """single, several, or as they were given."""
    by_seed: Mapping[int, Mapping[str, Any]]
    """Seed -> its result.json."""
    files: Mapping[int, Folder]
    """Seed -> the folder of its class probabilities."""

    def errors(self, key: str) -> list[float]:
        """`top1_error` or `top5_error` of each seed, in percent."""
        return [float(result[key]) for _, result in sorted(self.by_seed.items())]

    def text(self, key: str) -> str:
        """Mean ± standard deviation over seeds or, of one seed, its value."""
        return spread_text(self.errors(key))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the top-1 error by the images, of one seed."""
        if len(self.by_seed) != 1:
            return None
        low, high = next(iter(self.by_seed.values()))["top1_interval"]
        return low, high

    @property
    def seeds_learnt_nothing(self) -> list[int]:
        """Seeds whose net is not known to be better than always answering the largest class."""
        found = []
        for seed, result in sorted(self.by_seed.items()):
            labels_N = posteriors.open_file(self.files[seed], "posteriors.arrow").labels_N
            low, high = result["top1_interval"]
            if learnt_nothing((low, high), float(np.bincount(labels_N).max() / len(labels_N))):
                found.append(seed)
        return found

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"{self.step}, {self.protocol}, {self.scales}"


@dataclass(frozen=True)
class ComparedPair:
    """Two trainings by one protocol."""

    one: str
    other: str
    protocol: str
    difference: Difference
    seeds_spread: float | None
    """Standard deviation of the difference of two single trainings, in points; None of one seed."""

    @property
    def verdict(self) -> str:
        """Whether the difference is larger than images and seeds explain."""
        low, high = self.difference.interval
        beyond_images = low > 0 or high < 0
        if not beyond_images:
            return "no: the images explain it"
        if self.seeds_spread is None:
            return "by the images; seeds unknown"
        return "yes" if abs(self.difference.mean) > self.seeds_spread else "no: the seeds' spread is larger"


def spread_text(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, with one value as it is."""
    mean = statistics.fmean(values)
    return f"{mean:.2f}" if len(values) == 1 else f"{mean:.2f} ± {statistics.stdev(values):.2f}"


def tested_rows(nodes: Sequence[Node], results: Mapping[str, StepResult]) -> list[TestedRow]:
    """Of every evaluation and fusion that is done, in the order of the study."""
    found: dict[tuple[str, str], tuple[Node, dict[int, Any], dict[int, Folder]]] = {}
    for node in nodes:
        result = results.get(node.name)
        if result is None or isinstance(node.step, Training):
            continue
        for key, output in result.outputs.items():
            folder = Folder(result.folder).child(output["folder"])
            _, by_seed, files = found.setdefault((node.step.name, key), (node, {}, {}))
            by_seed[node.seed], files[node.seed] = folder.read_json("result.json"), folder
    rows = []
    for (step, key), (node, by_seed, files) in found.items():
        protocol, _, scales = key.partition(" ")
        name = node.step.training if isinstance(node.step, Evaluation) else step
        rows.append(TestedRow(name, node.kind, protocol, scales, by_seed, files))
    return rows


def compared_pairs(rows: Sequence[TestedRow]) -> list[ComparedPair]:
    """Every two trainings that were tested alike, by the strongest protocol that both have.

    Seeds are independent trainings: the spread of a difference is the root of the summed variances.
    """
    tested = [row for row in rows if row.kind == "evaluation"]
    common = [
        key
        for key in dict.fromkeys((row.protocol, row.scales) for row in tested)
        if all(
            any((r.step, r.protocol, r.scales) == (s, *key) for r in tested) for s in {r.step for r in tested}
        )
    ]
    if not common:
        return []
    order = ("single-crop", "dense", "multi-crop", "both")
    protocol, scales = max(common, key=lambda key: (order.index(key[0]), key[1] == "several"))
    of_step = [row for row in tested if (row.protocol, row.scales) == (protocol, scales)]
    wrong = {row.step: _wrong_NS(row) for row in of_step}
    return [
        ComparedPair(
            one.step,
            other.step,
            f"{protocol}, {scales}",
            paired_bootstrap(wrong[one.step], wrong[other.step]),
            _spread(one.errors("top1_error"), other.errors("top1_error")),
        )
        for one, other in combinations(of_step, 2)
    ]


def _spread(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    if min(len(ours), len(theirs)) < 2:
        return None
    return (statistics.variance(ours) + statistics.variance(theirs)) ** 0.5


def _wrong_NS(row: TestedRow) -> np.ndarray:
    """1 where an image is wrong, for each seed."""
    columns = []
    for _, folder in sorted(row.files.items()):
        found = posteriors.open_file(folder, "posteriors.arrow")
        parts = [
            best_scored(found.posteriors_NK[rows], found.labels_N[rows]) != found.labels_N[rows]
            for rows in blocks_of(len(found.keys))
        ]
        columns.append(np.concatenate(parts).astype(np.float64))
    return np.stack(columns, 1)
