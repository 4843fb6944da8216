"""What a tracked localisation test is of, as a tag of its run, and what differs from the paper's in it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vgg.localisation.merging import THRESHOLD
from vgg.localisation.provenance import BoxProvenance
from vgg.reporting.facts import Facts, NetFacts, TaggedFacts, has_wnids
from vgg.reporting.paper_conditions import differences


@dataclass(frozen=True)
class LocalisationFacts(TaggedFacts):
    """The facts of a test of classes, and beside them what a test of boxes has."""

    tag = "localisation"

    facts: Facts
    """Protocols are those of boxes."""
    threshold: float
    own_classifiers: bool
    """Whether each box net's classes come from the net that it started from; true where they are given."""

    @classmethod
    def of(cls, provenance: BoxProvenance, labels: Sequence[int], threshold: float) -> "LocalisationFacts":
        """Of a test of images of these classes."""
        images_K = np.bincount(np.asarray(labels, np.int64), minlength=len(provenance.classes))
        nets = tuple(
            NetFacts(
                net=f"{net.configuration}@{net.trained_at}",
                weights=net.weights_sha256[:16],
                recipe=net.recipe,
                started_from=net.started_from,
                trained_on_this_data=net.trained_on == provenance.data,
                protocol=f"boxes-{provenance.protocol}",
                average="scores",
                grid=1,
                precision=net.precision,
                weight=1.0,
                scales=tuple(sorted(net.scales)),
            )
            for net in provenance.nets
        )
        facts = Facts(
            source=provenance.source,
            data=provenance.data[:16],
            split=provenance.split,
            images=len(labels),
            train_images=provenance.train_images,
            classes=len(set(provenance.classes)),
            wnids=has_wnids(provenance.classes),
            images_per_class=(int(images_K.min()), int(images_K.max())),
            nets=nets,
        )
        own = all(net.own_classifier for net in provenance.nets)
        return cls(facts, threshold, own)

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> "LocalisationFacts | None":
        """None if the tag is missing or malformed."""
        try:
            fields = json.loads(tags[cls.tag])
            facts = Facts.from_tags({"facts": json.dumps(fields["facts"])})
            if facts is None or set(fields) != {"facts", "threshold", "own_classifiers"}:
                return None
            return cls(facts, float(fields["threshold"]), fields["own_classifiers"] is True)
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def differences(self) -> list[str]:
        """What differs from the paper's tests; empty if nothing."""
        found = differences(self.facts)
        if self.threshold != THRESHOLD:
            found.append(f"merged at {self.threshold:g}")
        if not self.own_classifiers:
            found.append("classes by another net than the box net started from")
        return found

    @property
    def tested(self) -> Counter[tuple[str, str, tuple[int, ...]]] | None:
        """(recipe, protocol, scales) of all nets; None if two are the same net."""
        if len({net.weights for net in self.facts.nets}) < len(self.facts.nets):
            return None
        return Counter((net.recipe, net.protocol, net.scales) for net in self.facts.nets)
