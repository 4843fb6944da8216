"""What a tracked transfer test is of, as a tag of its run, and what differs from the paper's in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vgg.reporting.facts import NetFacts, TaggedFacts
from vgg.reporting.paper_conditions import CLASSES, ILSVRC, difference_of_chain
from vgg.transferring.fitting import Fit
from vgg.transferring.provenance import WHOLE_IMAGE, FeatureNet, FeatureProvenance


@dataclass(frozen=True)
class TransferFacts(TaggedFacts):
    """Data, images, features and splits of a test."""

    tag = "transfer"

    source: str
    classes: int
    images: int
    """Of all splits that were read."""
    learned_from: int
    """Images, of each draw."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    per_class: int
    at_most: int
    draws: int
    combine: str
    nets: tuple[NetFacts, ...]
    trained_on: tuple[str, ...]
    """Of each net the name and the number of classes of the data that it was trained on."""
    regions: tuple[str, ...] = WHOLE_IMAGE

    @classmethod
    def of(
        cls, provenance: FeatureProvenance, fit: Fit, images: int, draws: Sequence[dict[str, Any]]
    ) -> "TransferFacts":
        """Of a test whose features are of so many images."""
        return cls(
            source=provenance.source,
            classes=len(provenance.classes),
            images=images,
            learned_from=int(draws[0]["trained_on"]),
            train=fit.train,
            test=fit.test,
            per_class=fit.rule.per_class,
            at_most=fit.rule.at_most,
            draws=fit.rule.draws,
            combine=provenance.combine,
            nets=tuple(_net_facts(net) for net in provenance.nets),
            trained_on=tuple(f"{net.trained_on_name}, {net.classes} classes" for net in provenance.nets),
            regions=provenance.regions,
        )

    def to_json(self) -> dict[str, Any]:
        """Without `regions` where they are the whole image alone, as `FeatureProvenance.to_json`."""
        fields = super().to_json()
        if self.regions == WHOLE_IMAGE:
            del fields["regions"]
        return fields

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> "TransferFacts | None":
        """None if the tag is missing or malformed."""
        try:
            fields = json.loads(tags[cls.tag])
            nets = tuple(NetFacts.from_json(net) for net in fields["nets"])
            lists = {key: tuple(fields[key]) for key in ("train", "test", "trained_on")}
            lists["regions"] = tuple(fields.get("regions", WHOLE_IMAGE))
            return cls(**{**fields, **lists, "nets": nets})
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    @property
    def differences_of_nets(self) -> list[str]:
        """What differs from the paper's nets; empty if nothing."""
        found = []
        for net, data in zip(self.nets, self.trained_on, strict=True):
            if reason := difference_of_chain(net):
                found.append(reason)
            if data != f"{ILSVRC}, {CLASSES} classes":
                found.append(f"{net.net} was trained on {data}")
            if net.precision != "fp32":
                found.append(f"precision {net.precision}")
        return list(dict.fromkeys(found))


def _net_facts(net: FeatureNet) -> NetFacts:
    return NetFacts(
        net=f"{net.configuration}@{net.trained_at}",
        weights=net.weights_sha256[:16],
        recipe=net.recipe,
        started_from=net.started_from,
        trained_on_this_data=False,
        protocol="features",
        average="scores",
        grid=1,
        precision=net.precision,
        weight=1.0,
        scales=tuple(sorted(net.scales)),
    )
