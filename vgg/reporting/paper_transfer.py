"""The paper's transfer results (table 11) as data, and the cell that a test of ours belongs to. In percent, the
higher the better."""

from dataclasses import dataclass

from vgg.reporting.transfer_facts import TransferFacts

NETS = {"D": ("paper-d-jitter",), "E": ("paper-e-jitter",), "D and E": ("paper-d-jitter", "paper-e-jitter")}
"""Nets of a row by recipe. The paper says which configurations; these are those that it published."""

VOC_SCALES, CALTECH_SCALES = (256, 384, 512, 640, 768), (256, 384, 512)


@dataclass(frozen=True)
class TransferTable:
    """A column of table 11: a data set, and how it is tested."""

    title: str
    measure: str
    """Key of result.json."""
    values: tuple[float, float, float]
    """Of D, E, and both."""
    sources: tuple[str, ...]
    """Names of the data set; none for one that is told by its classes and images."""
    classes: int
    images: tuple[int, int]
    """The fewest and the most: copies of Caltech-101 differ by two images."""
    train: tuple[str, ...]
    """Empty where images are drawn from all splits."""
    per_class: int
    at_most: int
    draws: int
    combine: str
    scales: tuple[int, ...]

    def difference(self, facts: TransferFacts) -> str | None:
        """Why a test is not of this data set as the paper tests it; None if it is."""
        checks = {
            "data": not self.sources or facts.source in self.sources,
            "classes": facts.classes == self.classes,
            "images": self.images[0] <= facts.images <= self.images[1],
            "splits": not self.train or (sorted(facts.train), facts.test) == (sorted(self.train), ("test",)),
            "images a class": (facts.per_class, facts.at_most) == (self.per_class, self.at_most),
            "random splits": facts.draws == self.draws,
            "combination of scales": facts.combine == self.combine,
            "scales": all(net.scales == self.scales for net in facts.nets),
        }
        return next((what for what, same in checks.items() if not same), None)


_VOC = ("mean", VOC_SCALES)
_CALTECH = ("stack", CALTECH_SCALES)

TABLES = (
    TransferTable(
        "VOC-2007, mAP", "map_2007", (89.3, 89.3, 89.7), ("VOC-2007",), 20, (9963, 9963), ("train", "val"),
        0, 0, 1, *_VOC,
    ),
    TransferTable(
        "VOC-2012, mAP", "map_2010", (89.0, 89.0, 89.3), ("VOC-2012",), 20, (22531, 22531), ("train", "val"),
        0, 0, 1, *_VOC,
    ),
    TransferTable(
        "Caltech-101, mean class recall (the paper: ± 1.0, 0.5, 0.5)", "mean_class_recall", (91.8, 92.3, 92.7),
        (), 102, (9144, 9146), (), 30, 50, 3, *_CALTECH,
    ),
    TransferTable(
        "Caltech-256, mean class recall (the paper: ± 0.2, 0.3, 0.3)", "mean_class_recall", (85.0, 85.1, 86.2),
        (), 257, (30607, 30607), (), 60, 0, 3, *_CALTECH,
    ),
)  # fmt: skip


def cell(facts: TransferFacts | None) -> tuple[TransferTable, str] | None:
    """Table and row that the test belongs to; None if it is of none, or not made as the paper's."""
    if facts is None or facts.differences_of_nets:
        return None
    recipes = tuple(sorted(net.recipe for net in facts.nets))
    row = next((name for name, wanted in NETS.items() if recipes == wanted), None)
    table = next((table for table in TABLES if table.difference(facts) is None), None)
    return None if row is None or table is None else (table, row)
