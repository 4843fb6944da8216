"""Learns machines from features and tests them: on the data set's own splits, or on random ones.

Shapes: N images, D numbers of a descriptor, K classes.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.transferring.feature_file import FeatureFile, Features
from vgg.transferring.measures import OneClass, SeveralClasses, precision_of, recall_of
from vgg.transferring.provenance import FeatureProvenance
from vgg.transferring.svm import Chosen, chosen
from vgg.transferring.targets import Learning, Rule, drawn, joined, targets


@dataclass(frozen=True)
class Fit:
    """What to learn from and test on, and how."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    rule: Rule
    costs: tuple[float, ...]
    validation_share: float
    seed: int

    def identity(self, provenance: FeatureProvenance) -> str:
        """SHA-256 of all that a result is of."""
        text = json.dumps([provenance.identity, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Splits:
    """Features of the splits to learn from and to test on, the latter behind the former."""

    provenance: FeatureProvenance
    features: Features
    learned_from: int
    """Images of the splits to learn from."""

    @classmethod
    def open(cls, folder: Folder, train: Sequence[str], test: Sequence[str]) -> "Splits":
        """UserError if one is missing or damaged, or they are not of one kind."""
        parts, first = [], None
        for split in (*train, *test):
            try:
                file = FeatureFile(folder, f"{split}.arrow")
            except FileNotFoundError as error:
                raise UserError(
                    f"{folder.uri} has no features of split {split}: "
                    f"python -m vgg.transfer features … --split {split} extracts them"
                ) from error
            first = first or file.provenance
            if file.provenance.identity != first.identity:
                raise UserError(f"{folder.uri}: {split} has other features than {first.split}")
            parts.append(file.all())
        assert first is not None
        enough = any if first.several_labels else all
        for split, part in zip((*train, *test), parts, strict=True):
            if not enough(part.labels):
                raise UserError(f"{folder.uri}: images of split {split} have no class to learn or test")
        return cls(first, joined(parts), sum(len(part.keys) for part in parts[: len(train)]))

    @property
    def one_class_each(self) -> bool:
        """Whether every image is of a single class."""
        return not self.provenance.several_labels

    def learnings(self, fit: Fit) -> list[Learning]:
        """The images of each draw, or those of the splits. UserError if they cannot be drawn."""
        images = len(self.features.keys)
        if not fit.rule.per_class:
            return [Learning(np.arange(self.learned_from), np.arange(self.learned_from, images))]
        if not self.one_class_each:
            raise UserError("--per-class draws images of one class each; these have several")
        labels_N = np.array([label for (label,) in self.features.labels])
        names = self.provenance.class_names
        return [drawn(labels_N, names, fit.rule, fit.seed, draw) for draw in range(fit.rule.draws)]


def fit_and_test(splits: Splits, fit: Fit) -> list[dict[str, Any]]:
    """Of each draw: the cost chosen, and the measures on its test images. UserError if it cannot be drawn."""
    found = splits.features
    targets_NK = targets(found.labels, found.difficult, len(splits.provenance.classes))
    results = []
    for number, learning in enumerate(splits.learnings(fit)):
        began = time.monotonic()
        train_ND, train_NK = found.features_NF[learning.train_N], targets_NK[learning.train_N]
        measure = recall_of if splits.one_class_each else precision_of
        best = chosen(train_ND, train_NK, fit.costs, fit.validation_share, fit.seed, measure)
        scores_NK = best.machines.scores(found.features_NF[learning.test_N])
        tested: OneClass | SeveralClasses
        kind: Any = OneClass if splits.one_class_each else SeveralClasses
        tested = kind.of(scores_NK, targets_NK[learning.test_N])
        results.append({**_about(best), "trained_on": len(learning.train_N), **tested.to_json()})
        tried = ", ".join(f"{cost:g}: {value:.1f}" for cost, value in best.tried)
        seconds = time.monotonic() - began
        print(f"draw {number + 1}: C = {best.cost:g} of {tried} ({seconds:.0f} s)", flush=True)
        _remark(best, fit.costs)
    return results


def _about(best: Chosen) -> dict[str, Any]:
    return {
        "cost": best.cost,
        "tried": [list(each) for each in best.tried],
        "unconverged": best.machines.unconverged,
    }


def _remark(best: Chosen, costs: Sequence[float]) -> None:
    if len(costs) > 1 and best.cost in (min(costs), max(costs)):
        print(f"the best C is at the end of --costs: try more beyond {best.cost:g}", flush=True)
    if best.machines.unconverged:
        print(f"the solver of {best.machines.unconverged} classes has not converged", flush=True)
