"""The paper's results as data: what our figures stand beside. Errors are in percent, top-1 and top-5."""

from dataclasses import dataclass

PAPER_CLASSES = 1000
"""What tells ImageNet's classes, which the paper's figures are of, from those of other data."""


FIXED_256, FIXED_384, JITTERED = "256", "384", "256-512"
"""Training scales S, as `vgg.testing.provenance.Member.trained_at` names them."""


MULTI_SCALE = {FIXED_256: (224, 256, 288), FIXED_384: (352, 384, 416), JITTERED: (256, 384, 512)}


ONE_SCALE = {FIXED_256: (256,), FIXED_384: (384,), JITTERED: (384,)}
"""Test scales Q by training scale (sections 4.1 and 4.2)."""


Errors = tuple[float | None, float | None]


@dataclass(frozen=True)
class ResultKey:
    """A test: which nets (configuration @ training scale), how, at which scales."""

    nets: tuple[str, ...]
    protocol: str
    scales: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A row of a table; `tested` is what of ours stands beside it, where we can have it."""

    label: str
    paper: Errors
    tested: ResultKey | None


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    number: int
    title: str
    rows: tuple[Row, ...]


def _by_training_scale(number: int, title: str, errors: dict[str, dict[str, Errors]], several: bool) -> Table:
    scales = MULTI_SCALE if several else ONE_SCALE
    return Table(
        number,
        title,
        tuple(
            Row(
                f"{configuration}, S = {trained_at}, Q = {', '.join(map(str, scales[trained_at]))}",
                found,
                ResultKey((f"{configuration}@{trained_at}",), "dense", scales[trained_at]),
            )
            for configuration, by_scale in errors.items()
            for trained_at, found in by_scale.items()
        ),
    )


_SEVEN = ("C@256", "C@384", "D@256", "D@256-512", "D@384", "E@256", "E@384")


_TWO = ("D@256-512", "E@256-512")


TABLES = (
    _by_training_scale(
        3,
        "One test scale, dense",
        {
            "A": {FIXED_256: (29.6, 10.4)},
            "A-LRN": {FIXED_256: (29.7, 10.5)},
            "B": {FIXED_256: (28.7, 9.9)},
            "C": {FIXED_256: (28.1, 9.4), FIXED_384: (28.1, 9.3), JITTERED: (27.3, 8.8)},
            "D": {FIXED_256: (27.0, 8.8), FIXED_384: (26.8, 8.7), JITTERED: (25.6, 8.1)},
            "E": {FIXED_256: (27.3, 9.0), FIXED_384: (26.9, 8.7), JITTERED: (25.5, 8.0)},
        },
        several=False,
    ),
    _by_training_scale(
        4,
        "Several test scales, dense",
        {
            "B": {FIXED_256: (28.2, 9.6)},
            "C": {FIXED_256: (27.7, 9.2), FIXED_384: (27.8, 9.2), JITTERED: (26.3, 8.2)},
            "D": {FIXED_256: (26.6, 8.6), FIXED_384: (26.5, 8.6), JITTERED: (24.8, 7.5)},
            "E": {FIXED_256: (26.9, 8.7), FIXED_384: (26.7, 8.6), JITTERED: (24.8, 7.5)},
        },
        several=True,
    ),
    Table(
        5,
        "Dense, multi-crop, both; S = 256-512, Q = 256, 384, 512",
        tuple(
            Row(
                f"{configuration}, {protocol}",
                errors,
                ResultKey((f"{configuration}@{JITTERED}",), protocol, MULTI_SCALE[JITTERED]),
            )
            for configuration, protocol, errors in [
                ("D", "dense", (24.8, 7.5)),
                ("D", "multi-crop", (24.6, 7.5)),
                ("D", "both", (24.4, 7.2)),
                ("E", "dense", (24.8, 7.5)),
                ("E", "multi-crop", (24.6, 7.4)),
                ("E", "both", (24.4, 7.1)),
            ]
        ),
    ),
    Table(
        6,
        "Fusion of nets",
        (
            Row(
                "seven nets, dense: D/256, D/384, D/256-512, C/256, C/384, E/256, E/384",
                (24.7, 7.5),
                ResultKey(_SEVEN, "dense", (224, 256, 288, 352, 384, 416, 512)),
            ),
            Row("D + E, S = 256-512, dense", (24.0, 7.1), ResultKey(_TWO, "dense", (256, 384, 512))),
            Row("D + E, S = 256-512, multi-crop", (23.9, 7.2), ResultKey(_TWO, "multi-crop", (256, 384, 512))),
            Row("D + E, S = 256-512, both", (23.7, 6.8), ResultKey(_TWO, "both", (256, 384, 512))),
        ),
    ),
    Table(
        7,
        "Beside others of the time",
        (
            Row("VGG, two nets, both", (23.7, 6.8), ResultKey(_TWO, "both", (256, 384, 512))),
            Row("VGG, one net, both", (24.4, 7.1), ResultKey(("E@256-512",), "both", (256, 384, 512))),
            Row("GoogLeNet, seven nets", (None, 6.7), None),
            Row("GoogLeNet, one net", (None, 7.9), None),
            Row("MSRA, one net", (27.9, 9.1), None),
            Row("Zeiler and Fergus, one net", (37.5, 16.0), None),
            Row("OverFeat, one net", (35.7, 14.2), None),
            Row("Krizhevsky et al., one net", (40.7, 18.2), None),
        ),
    ),
)


TINY_IMAGENET = {
    "A": (64.09, 47.52),
    "B": (59.99, 46.57),
    "D": (63.08, 46.52),
    "C": (61.55, None),
    "E": (64.37, 47.57),
}
"""Top-1 errors at 64×64 of two published studies, 200 classes: one with batch normalisation, Adam and early
stopping; the best found of a plain VGG in 100 epochs."""


def published(tested: ResultKey, classes: int, data: str) -> Errors:
    """What a test of ours stands beside: the paper's where the data has ImageNet's classes, a published study's
    where it is Tiny ImageNet, else nothing. `data`: name of its source.
    """
    if classes == PAPER_CLASSES:
        found = [row.paper for table in TABLES for row in table.rows if row.tested == tested]
        return found[0] if found else (None, None)
    if classes == 200 and "tiny" in data.lower() and len(tested.nets) == 1:
        return TINY_IMAGENET.get(tested.nets[0].partition("@")[0], (None, None))[0], None
    return None, None
