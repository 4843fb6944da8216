"""Provenance of class probabilities: which nets, tested by which protocols, on which images.

The fields' names and values are part of `posteriors.arrow` and of its digest.
"""

from dataclasses import asdict, dataclass
from math import isclose
from typing import Any

from vgg.testing.protocols import GRID


@dataclass(frozen=True)
class EnsembleMember:
    """One net tested by one protocol at one scale: a term of the mean that class probabilities are."""

    net: str
    """Readable name."""
    weights_sha256: str
    recipe: str
    configuration: str
    trained_at: str
    """Training scale S: 256 if fixed, 256-512 if drawn from that range."""
    protocol: str
    scale: int
    """Test scale Q in pixels."""
    average: str
    """What the dense protocol averages over space; see `vgg.testing.protocols.Average`."""
    grid: int
    """Crops per row and per column; 1 unless the protocol is multi-crop."""
    precision: str
    """Of the arithmetic: fp32, bf16 or fp16; auto if unknown, as before scoring and in files of 0.1.0."""
    trained_on: str = ""
    """SHA-256 of the manifest of the data set it was trained on; empty if unknown."""
    started_from: tuple[str, ...] = ()
    """Recipes of the nets whose weights it started from, the nearest first; see `TrainedNet.started_from`."""

    @property
    def suffix(self) -> str:
        """Settings that are not the usual ones, as they appear in names: -grid2, -posteriors, -bf16."""
        usual_grid = GRID if self.protocol == "multi-crop" else 1
        grid = "" if self.grid == usual_grid else f"-grid{self.grid}"
        average = "-posteriors" if self.protocol == "dense" and self.average == "posteriors" else ""
        return f"{grid}{average}{'' if self.precision == 'fp32' else f'-{self.precision}'}"


@dataclass(frozen=True)
class Provenance:
    """Data set, classes and ensemble members of class probabilities."""

    data: str
    """SHA-256 of the packed data set's manifest."""
    source: str
    """Name of the data set."""
    split: str
    classes: tuple[str, ...]
    """Identifiers, in the order of the columns."""
    class_names: tuple[str, ...]
    members: tuple[tuple[EnsembleMember, float], ...]
    """Each with its weight in the mean; the weights add up to 1."""
    train_images: int = 0
    """Images of the data set's training split; 0 if unknown."""

    def to_json(self) -> dict[str, Any]:
        """All fields but those that are unknown, which version 0.1.0 did not have."""
        fields = _without_unknown(self)
        members = [(_without_unknown(member), weight) for member, weight in self.members]
        return {**fields, "members": members}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Provenance":
        """KeyError, TypeError or ValueError if a field is missing or malformed, or the weights make no mean."""
        members = tuple((_member(member), float(weight)) for member, weight in fields["members"])
        if not members or any(weight <= 0 for _, weight in members) or len(set(members)) < len(members):
            raise ValueError("each member needs a positive weight, once")
        if not isclose(sum(weight for _, weight in members), 1, abs_tol=1e-6):
            raise ValueError("the members' weights do not add up to 1")
        return cls(
            fields["data"],
            fields["source"],
            fields["split"],
            tuple(fields["classes"]),
            tuple(fields["class_names"]),
            members,
            fields.get("train_images", 0),
        )

    @property
    def nets(self) -> list[str]:
        """Names of the nets, sorted, each once."""
        return sorted({member.net for member, _ in self.members})


def _without_unknown(record: "EnsembleMember | Provenance") -> dict[str, Any]:
    added = ("trained_on", "started_from", "train_images")
    return {key: value for key, value in asdict(record).items() if value or key not in added}


def _member(fields: dict[str, Any]) -> EnsembleMember:
    return EnsembleMember(**{**fields, "started_from": tuple(fields.get("started_from", ()))})
