"""What a tracked test is of, as a tag of its run: all that decides which table it belongs to."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from vgg.testing.posteriors import Posteriors
from vgg.testing.provenance import EnsembleMember

MAX_TAG_CHARACTERS = 5000
"""MLflow refuses longer tags in some versions."""


DIGEST_PARAM = "unedited.facts_sha256"
"""Its name comes last: where MLflow compares runs, it begins with the first parameters that differ."""
EARLIER_DIGEST_PARAM = "facts_sha256"


@dataclass(frozen=True)
class TaggedFacts:
    """What a run carries as a tag that nobody can edit unnoticed: its digest is a parameter of the run."""

    tag: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """What the tag holds."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """SHA-256, kept as a parameter of the run, which MLflow does not let anybody change."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_params(self) -> dict[str, str]:
        """The digest as a parameter."""
        return {DIGEST_PARAM: self.digest}

    def is_of(self, params: Mapping[str, str]) -> bool:
        """Whether a run with these parameters was tracked with these facts, by whatever version."""
        digests = {params[name] for name in (DIGEST_PARAM, EARLIER_DIGEST_PARAM) if name in params}
        return digests == {self.digest}

    def to_tags(self) -> dict[str, str]:
        """As a tag; none if there are too many nets for one."""
        text = json.dumps(self.to_json(), separators=(",", ":"))
        return {self.tag: text} if len(text) <= MAX_TAG_CHARACTERS else {}


_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class NetFacts:
    """One net by one protocol, at the scales that share all else."""

    net: str
    """CONFIGURATION@TRAINING SCALE."""
    weights: str
    """First digits of the weights' SHA-256."""
    recipe: str
    started_from: tuple[str, ...]
    trained_on_this_data: bool
    protocol: str
    average: str
    grid: int
    precision: str
    weight: float
    """Of each scale in the mean."""
    scales: tuple[int, ...]

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "NetFacts":
        """KeyError or TypeError if a field is missing or unknown."""
        lists = {key: tuple(fields[key]) for key in ("started_from", "scales")}
        return cls(**{**fields, **lists})


@dataclass(frozen=True)
class Facts(TaggedFacts):
    """Data, images and nets of a test."""

    tag = "facts"

    source: str
    data: str
    """First digits of the data digest."""
    split: str
    images: int
    train_images: int
    classes: int
    wnids: bool
    """Whether all classes are WNIDs such as n01440764."""
    images_per_class: tuple[int, int]
    """The fewest and the most."""
    nets: tuple[NetFacts, ...]

    @property
    def majority_share(self) -> float:
        """Share of images of the largest class, a fraction."""
        return self.images_per_class[1] / self.images

    @classmethod
    def of(cls, posteriors: Posteriors) -> "Facts":
        """The facts of class probabilities."""
        provenance = posteriors.provenance
        images_K = np.bincount(posteriors.labels_N, minlength=len(provenance.classes))
        scales: dict[NetFacts, list[int]] = {}
        for member, weight in provenance.members:
            scales.setdefault(_without_scales(member, weight, provenance.data), []).append(member.scale)
        return cls(
            source=provenance.source,
            data=provenance.data[:16],
            split=provenance.split,
            images=len(set(posteriors.keys)),
            train_images=provenance.train_images,
            classes=len(set(provenance.classes)),
            wnids=has_wnids(provenance.classes),
            images_per_class=(int(images_K.min()), int(images_K.max())),
            nets=tuple(replace(net, scales=tuple(sorted(of_net))) for net, of_net in scales.items()),
        )

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> "Facts | None":
        """None for runs of earlier versions, and if the tag is malformed."""
        try:
            fields = json.loads(tags[cls.tag])
            nets = tuple(NetFacts.from_json(net) for net in fields["nets"])
            fewest, most = fields["images_per_class"]
            return cls(**{**fields, "nets": nets, "images_per_class": (fewest, most)})
        except (KeyError, TypeError, ValueError):
            return None


def has_wnids(classes: Sequence[str]) -> bool:
    """Whether all classes are named by WNIDs such as n01440764."""
    return all(_WNID.fullmatch(name) for name in classes)


def _without_scales(member: EnsembleMember, weight: float, data: str) -> NetFacts:
    return NetFacts(
        net=f"{member.configuration}@{member.trained_at}",
        weights=member.weights_sha256[:16],
        recipe=member.recipe,
        started_from=member.started_from,
        trained_on_this_data=member.trained_on == data,
        protocol=member.protocol,
        average=member.average,
        grid=member.grid,
        precision=member.precision,
        weight=round(weight, 6),
        scales=(),
    )
