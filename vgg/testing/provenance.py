"""What posteriors are of: which nets by which protocols, on which images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """One net, one protocol, one scale: what posteriors are a mean of."""

    net: str
    """Readable name."""
    weights_sha256: str
    recipe: str
    configuration: str
    trained_at: str
    """Training scale S: 256, or 256-512 where it was drawn."""
    protocol: str
    scale: int
    average: str
    """What the dense protocol averaged over space; see `vgg.testing.protocols.Average`."""
    grid: int
    """Crops of a row and of a column; 1 but for multi-crop."""
    precision: str
    """As asked for: auto depends on the device."""


@dataclass(frozen=True)
class Provenance:
    """Whose posteriors, of which images."""

    data: str
    """Digest of the packed data set's manifest."""
    source: str
    split: str
    classes: tuple[str, ...]
    """Identifiers in the order of the columns."""
    class_names: tuple[str, ...]
    members: tuple[tuple[Member, float], ...]
    """Each with its weight in the mean; the weights add up to 1."""

    @property
    def nets(self) -> list[str]:
        """Names of the nets, each once."""
        return sorted({member.net for member, _ in self.members})
