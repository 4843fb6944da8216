"""Provenance of class probabilities: which nets, tested by which protocols, on which images.

The fields' names and values are part of `posteriors.arrow` and of its digest.
"""

from dataclasses import dataclass


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
    """As requested; what auto stands for depends on the device."""


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

    @property
    def nets(self) -> list[str]:
        """Names of the nets, sorted, each once."""
        return sorted({member.net for member, _ in self.members})
