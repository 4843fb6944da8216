"""What features are of: nets, scales, how these are combined, and the images of which data set and split."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Combine = Literal["mean", "stack"]
"""How the activations at several scales become one descriptor: averaged (paper, appendix B: VOC) or put one
after the other (Caltech)."""


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

    @property
    def identity(self) -> str:
        """SHA-256 of all of this but the split: what a folder of features is of."""
        return _sha256(asdict(replace(self, split="")))

    @property
    def name(self) -> str:
        """Of the folder of these features, of whatever split."""
        nets = "+".join(net.net for net in self.nets)
        scales = "+".join(map(str, dict.fromkeys(scale for net in self.nets for scale in net.scales)))
        return f"{nets[:80]}-{self.combine}-{scales}-{self.identity[:8]}"

    def of_pass(self, net: int, scale: int) -> "FeatureProvenance":
        """The activations of one of the nets at one of its scales."""
        return replace(self, combine="mean", nets=(replace(self.nets[net], scales=(scale,)),))

    @property
    def numbers_identity(self) -> str:
        """SHA-256 of what decides the numbers: the same for a net whose recipe or lineage is told otherwise."""
        nets = [[net.weights_sha256, net.scales, net.precision] for net in self.nets]
        return _sha256([self.data, self.split, self.combine, nets])

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "FeatureProvenance":
        """KeyError or TypeError if a field is missing or unknown."""
        nets = tuple(
            FeatureNet(**{**net, "started_from": tuple(net["started_from"]), "scales": tuple(net["scales"])})
            for net in fields["nets"]
        )
        lists = {key: tuple(fields[key]) for key in ("classes", "class_names")}
        return cls(**{**fields, **lists, "nets": nets})


def _sha256(fields: object) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
