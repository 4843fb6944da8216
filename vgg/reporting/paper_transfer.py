"""The paper's transfer results (tables 11 and 12) as data, and the cell that a test of ours belongs to. In
percent, the higher the better."""

from dataclasses import dataclass

from vgg.reporting.transfer_facts import TransferFacts
from vgg.transferring.provenance import WHOLE_IMAGE, Region


@dataclass(frozen=True)
class TransferRow:
    """A row of a table: nets, and what of an image they see."""

    name: str
    recipes: tuple[str, ...]
    """The paper says which configurations; these are those that it published."""
    regions: tuple[Region, ...] = WHOLE_IMAGE


D, E = "paper-d-jitter", "paper-e-jitter"
ROWS_11 = (TransferRow("D", (D,)), TransferRow("E", (E,)), TransferRow("D and E", (D, E)))
ROWS_12 = (
    TransferRow("D and E, whole image", (D, E)),
    TransferRow("D and E, image and box", (D, E), ("image", "box")),
)

VOC_SCALES, CALTECH_SCALES = (256, 384, 512, 640, 768), (256, 384, 512)


@dataclass(frozen=True)
class TransferTable:
    """A column of table 11, or table 12: a data set, and how it is tested."""

    number: int
    """Of the paper's table."""
    title: str
    measure: str
    """Key of result.json."""
    rows: tuple[TransferRow, ...]
    values: tuple[float, ...]
    """Of each row."""
    sources: tuple[str, ...]
    """Names of the data set; none for one that is told by its classes and images."""
    classes: int
    images: tuple[int, int | None]
    """The fewest and the most, None where the paper does not say; copies of Caltech-101 differ by two."""
    train: tuple[str, ...]
    """Empty where images are drawn from all splits."""
    per_class: int
    at_most: int
    draws: int
    combine: str
    scales: tuple[int, ...]

    def difference(self, facts: TransferFacts) -> str | None:
        """Why a test is not of this data set as the paper tests it; None if it is."""
        fewest, most = self.images
        checks = {
            "data": not self.sources or facts.source in self.sources,
            "classes": facts.classes == self.classes,
            "images": fewest <= facts.images and (most is None or facts.images <= most),
            "splits": not self.train or (sorted(facts.train), facts.test) == (sorted(self.train), ("test",)),
            "images a class": (facts.per_class, facts.at_most) == (self.per_class, self.at_most),
            "random splits": facts.draws == self.draws,
            "combination of scales": facts.combine == self.combine,
            "scales": all(net.scales == self.scales for net in facts.nets),
            "regions": facts.regions in {row.regions for row in self.rows},
        }
        return next((what for what, same in checks.items() if not same), None)


_VOC = ("mean", VOC_SCALES)
_CALTECH = ("stack", CALTECH_SCALES)

TABLES = (
    TransferTable(
        11, "VOC-2007, mAP", "map_2007", ROWS_11, (89.3, 89.3, 89.7), ("VOC-2007",), 20, (9963, 9963),
        ("train", "val"), 0, 0, 1, *_VOC,
    ),
    TransferTable(
        11, "VOC-2012, mAP", "map_2010", ROWS_11, (89.0, 89.0, 89.3), ("VOC-2012",), 20, (22531, 22531),
        ("train", "val"), 0, 0, 1, *_VOC,
    ),
    TransferTable(
        11, "Caltech-101, mean class recall (the paper: ± 1.0, 0.5, 0.5)", "mean_class_recall", ROWS_11,
        (91.8, 92.3, 92.7), (), 102, (9144, 9146), (), 30, 50, 3, *_CALTECH,
    ),
    TransferTable(
        11, "Caltech-256, mean class recall (the paper: ± 0.2, 0.3, 0.3)", "mean_class_recall", ROWS_11,
        (85.0, 85.1, 86.2), (), 257, (30607, 30607), (), 60, 0, 3, *_CALTECH,
    ),
    TransferTable(  # "4.6K training images": 4,588, each of at least one person; and some to test on
        12, "VOC-2012 actions, mAP", "map_2010", ROWS_12, (79.2, 84.0), ("VOC-2012 actions",), 10, (4589, None),
        ("train", "val"), 0, 0, 1, *_VOC,
    ),
)  # fmt: skip


def cell(facts: TransferFacts | None) -> tuple[TransferTable, TransferRow] | None:
    """Table and row that the test belongs to; None if it is of none, or not made as the paper's."""
    if facts is None or facts.differences_of_nets:
        return None
    table = next((table for table in TABLES if table.difference(facts) is None), None)
    if table is None:
        return None
    seen = tuple(sorted(net.recipe for net in facts.nets)), facts.regions
    row = next((row for row in table.rows if (row.recipes, row.regions) == seen), None)
    return None if row is None else (table, row)
