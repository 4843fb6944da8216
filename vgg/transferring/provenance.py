"""What features are of: nets, scales, regions, how these are combined, and the images of which data set and
split."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Combine = Literal["mean", "stack"]
"""How the activations at several scales become one descriptor: averaged (paper, appendix B: VOC) or put one
after the other (Caltech)."""

Region = Literal["image", "box"]
"""What is put into a net: the whole image, or what its box shows, as an image of its own."""

WHOLE_IMAGE: tuple[Region, ...] = ("image",)


@dataclass(frozen=True)
class FeatureNet:
    """One net whose activations the features are."""

    net: str
    """Readable name."""
    weights_sha256: str
    recipe: str
    configuration: str
    trained_at: str
    """Training scale S."""
    trained_on: str
    """SHA-256 of the manifest of the data set it was trained on; empty if unknown."""
    trained_on_name: str
    """Name of that data set; empty if unknown."""
    classes: int
    started_from: tuple[str, ...]
    scales: tuple[int, ...]
    """Scales Q."""
    precision: str
    """fp32, bf16 or fp16."""


@dataclass(frozen=True)
class FeatureProvenance:
    """Of the features of a split."""

    data: str
    """SHA-256 of the packed data set's manifest."""
    source: str
    """Name of the data set."""
    split: str
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    several_labels: bool
    """Whether an image may be of several classes, or of none."""
    combine: Combine
    nets: tuple[FeatureNet, ...]
    """Their descriptors are put one after the other, in this order."""
    regions: tuple[Region, ...] = WHOLE_IMAGE
    """Of each net, the descriptors of these are put one after the other."""

    @property
    def identity(self) -> str:
        """SHA-256 of all of this but the split: what a folder of features is of."""
        return _sha256(replace(self, split="").to_json())

    @property
    def name(self) -> str:
        """Of the folder of these features, of whatever split."""
        nets = "+".join(net.net for net in self.nets)
        scales = "+".join(map(str, dict.fromkeys(scale for net in self.nets for scale in net.scales)))
        regions = "" if self.regions == WHOLE_IMAGE else f"-{'+'.join(self.regions)}"
        return f"{nets[:80]}-{self.combine}-{scales}{regions}-{self.identity[:8]}"

    def of_pass(self, net: int, scale: int, region: Region) -> "FeatureProvenance":
        """The activations of one of the nets at one of its scales in one of the regions."""
        member = replace(self.nets[net], scales=(scale,))
        return replace(self, combine="mean", nets=(member,), regions=(region,))

    @property
    def numbers_identity(self) -> str:
        """SHA-256 of what decides the numbers: the same for a net whose recipe or lineage is told otherwise."""
        nets = [[net.weights_sha256, net.scales, net.precision] for net in self.nets]
        regions = [] if self.regions == WHOLE_IMAGE else [self.regions]
        return _sha256([self.data, self.split, self.combine, nets, *regions])

    def to_json(self) -> dict[str, Any]:
        """Its fields; `regions` only where they are not the whole image alone: features without the field are
        of whole images."""
        fields = asdict(self)
        if self.regions == WHOLE_IMAGE:
            del fields["regions"]
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "FeatureProvenance":
        """KeyError or TypeError if a field is missing or unknown."""
        nets = tuple(
            FeatureNet(**{**net, "started_from": tuple(net["started_from"]), "scales": tuple(net["scales"])})
            for net in fields["nets"]
        )
        lists = {key: tuple(fields[key]) for key in ("classes", "class_names")}
        lists["regions"] = tuple(fields.get("regions", WHOLE_IMAGE))
        return cls(**{**fields, **lists, "nets": nets})


def _sha256(fields: object) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
