"""Published results as data, which ours are compared with. Errors are in percent, top-1 and top-5."""

from dataclasses import dataclass

FIXED_256, FIXED_384, JITTERED = "256", "384", "256-512"
"""Training scales S, in the form of `vgg.testing.provenance.EnsembleMember.trained_at`."""

MULTI_SCALE = {FIXED_256: (224, 256, 288), FIXED_384: (352, 384, 416), JITTERED: (256, 384, 512)}

ONE_SCALE = {FIXED_256: (256,), FIXED_384: (384,), JITTERED: (384,)}
"""Test scales Q by training scale (sections 4.1 and 4.2)."""

Errors = tuple[float | None, float | None]
"""Top-1 and top-5 error in percent; None if it was not published."""


@dataclass(frozen=True)
class ResultKey:
    """What a result is of: results with equal keys are compared with each other."""

    nets: tuple[str, ...]
    """Sorted, each as CONFIGURATION@TRAINING SCALE: D@256-512."""
    protocol: str
    scales: tuple[int, ...]
    """Test scales Q."""


@dataclass(frozen=True)
class Row:
    """A row of a table of the paper."""

    label: str
    errors: Errors
    key: ResultKey | None
    """Of our result that is compared with it; None for other people's nets."""


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
                f"{configuration}, S = {training_scale}, Q = {', '.join(map(str, scales[training_scale]))}",
                row_errors,
                ResultKey((f"{configuration}@{training_scale}",), "dense", scales[training_scale]),
            )
            for configuration, by_scale in errors.items()
            for training_scale, row_errors in by_scale.items()
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

TINY_IMAGENET: dict[str, tuple[float | None, float | None]] = {
    "A": (64.09, 47.52),
    "B": (59.99, 46.57),
    "D": (63.08, 46.52),
    "C": (61.55, None),
    "E": (64.37, 47.57),
}
"""Top-1 errors on Tiny ImageNet's validation images, 64×64, 200 classes, of two published studies: one with
batch normalisation, Adam and early stopping; and the best found of a plain VGG in 100 epochs."""
