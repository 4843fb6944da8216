"""What a localisation test is a result of: nets, classifiers, data, protocol, scales and merging."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

BoxProtocol = Literal["centre", "dense"]
"""centre: the centre crop with the true class (paper, table 8). dense: the nets at every place of the whole
image, boxes merged and rated by class scores (tables 9 and 10)."""


@dataclass(frozen=True)
class BoxNet:
    """One box net, and the classifier whose scores rated its boxes."""

    net: str
    weights_sha256: str
    recipe: str
    configuration: str
    trained_at: str
    """Training scale S."""
    boxes: str
    """single or per-class."""
    trained_on: str
    started_from: tuple[str, ...]
    classifier: str
    """SHA-256 of the classifier's weights; empty where the true class is given."""
    own_classifier: bool
    """Whether that is the net that the box net started from."""
    scales: tuple[int, ...]
    """Test scales Q."""
    precision: str


@dataclass(frozen=True)
class BoxProvenance:
    """Of boxes, and with a threshold of the errors of the merged ones."""

    data: str
    """SHA-256 of the packed data set's manifest."""
    source: str
    split: str
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    train_images: int
    protocol: BoxProtocol
    nets: tuple[BoxNet, ...]

    @property
    def identity(self) -> str:
        """SHA-256 of all that decides the boxes: the same for a net whose recipe is told otherwise."""
        told = ("net", "recipe", "configuration", "trained_at", "trained_on", "started_from", "own_classifier")
        nets = [{key: value for key, value in asdict(net).items() if key not in told} for net in self.nets]
        return _sha256([self.data, self.split, self.protocol, sorted(nets, key=json.dumps)])

    @property
    def full_identity(self) -> str:
        """SHA-256 of all of this, by which results that differ in anything get folders of their own."""
        return _sha256(asdict(self))

    def result_identity(self, threshold: float, images: int) -> str:
        """SHA-256 of all that a result is of."""
        nets = sorted((asdict(net) for net in self.nets), key=json.dumps)
        return _sha256([self.data, self.split, self.protocol, nets, threshold, images])

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "BoxProvenance":
        """KeyError or TypeError if a field is missing or unknown."""
        nets = tuple(
            BoxNet(**{**net, "started_from": tuple(net["started_from"]), "scales": tuple(net["scales"])})
            for net in fields["nets"]
        )
        lists = {key: tuple(fields[key]) for key in ("classes", "class_names")}
        return cls(**{**fields, **lists, "nets": nets})

    def fused(self, other: "BoxProvenance") -> "BoxProvenance":
        """Of the union of both's boxes."""
        return replace(self, nets=(*self.nets, *other.nets))


def _sha256(fields: object) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
