"""The card of a data set: its best test, and what that is to be read with."""

import pytest

from vgg.metrics.interval import wilson_interval
from vgg.reporting.cards import cards
from vgg.reporting.paper_results import ResultKey
from vgg.reporting.tables import TrackedResult

IMAGES = 250


def tracked(place: int, wrong: int) -> TrackedResult:
    """A test of which nothing but its error is known."""
    return TrackedResult(
        ResultKey(("A@64-80",), "dense", (place,)),
        "eval",
        "net",
        "photos",
        "image folder photos",
        5,
        (100 * wrong / IMAGES, None),
        IMAGES,
        f"run {place}",
        f"identity {place}",
        wilson_interval(wrong, IMAGES),
        "val",
        None,
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([24], ""),
        ([24, 100], ""),
        ([24, 27], "The other test lies within its interval, so which is best may be chance."),
        ([27, 24, 25, 27], "All 3 other tests lie within its interval, so which is best may be chance."),
        ([24, 27, 100], "1 of the 2 other tests lies within its interval, so which is best may be chance."),
        ([24, 27, 27, 100], "2 of the 3 other tests lie within its interval, so which is best may be chance."),
    ],
)
def test_a_card_says_how_many_tests_are_as_good(wrong, said):
    (card,) = cards([tracked(*test) for test in enumerate(wrong)], str)
    assert card.error == 100 * 24 / IMAGES
    assert card.link == f"run {wrong.index(24)}"
    assert card.remarks == ((said,) if said else ())
