"""What fills a cell of the paper's tables: only the paper's tests of the paper's nets on the paper's data."""

from dataclasses import replace

import pytest

from vgg.reporting.facts import Facts, NetFacts
from vgg.reporting.paper_conditions import differences, reference, row_key, tiny_imagenet_errors

JITTERED = (256, 384, 512)


def net(letter="D", at="256-512", protocol="dense", scales=JITTERED, weight=1 / 3):
    base = f"paper-{letter.lower()}"
    chains = {"256": (base,), "384": (f"{base}-384", base), "256-512": (f"{base}-jitter", f"{base}-384", base)}
    recipe, *started_from = chains[at]
    grid = 5 if protocol == "multi-crop" else 1
    name, weights = f"{letter}@{at}", f"sha-{letter}-{at}"
    chain = tuple(started_from)
    return NetFacts(
        name, weights, recipe, chain, True, protocol, "scores", grid, "fp32", round(weight, 6), scales
    )


def facts(*nets):
    return Facts("ILSVRC-2012", "digest", "val", 50_000, 1_281_167, 1000, True, (50, 50), nets or (net(),))


def fused(protocol="dense"):
    return facts(net("D", protocol=protocol, weight=1 / 6), net("E", protocol=protocol, weight=1 / 6))


def multi_crop():
    return facts(net(protocol="multi-crop"))


def with_net(whole, **change):
    return replace(whole, nets=(replace(whole.nets[0], **change), *whole.nets[1:]))


SEVEN_SCALES = {"256": (224, 256, 288), "384": (352, 384, 416), "256-512": JITTERED}
SEVEN = [("C", "256"), ("C", "384"), ("D", "256"), ("D", "256-512"), ("D", "384"), ("E", "256"), ("E", "384")]


@pytest.mark.parametrize(
    ("genuine", "errors"),
    [
        (facts(), (24.8, 7.5)),
        (facts(net(scales=(384,), weight=1.0)), (25.6, 8.1)),
        (facts(net("A", "256", scales=(256,), weight=1.0)), (29.6, 10.4)),
        (multi_crop(), (24.6, 7.5)),
        (facts(*(net(protocol=p, weight=1 / 6) for p in ("dense", "multi-crop"))), (24.4, 7.2)),
        (fused(), (24.0, 7.1)),
        (facts(*(net(c, at, scales=SEVEN_SCALES[at], weight=1 / 21) for c, at in SEVEN)), (24.7, 7.5)),
    ],
)
def test_the_papers_own_tests_fill_cells(genuine, errors):
    assert differences(genuine) == []
    assert row_key(genuine) is not None
    assert reference(genuine) == errors
    assert Facts.from_tags(genuine.to_tags()) == genuine


FORGERIES = {
    "another folder of 1000 classes": (replace(facts(), source="image folder photos"), "image folder photos"),
    "a folder with the name, without WNIDs": (replace(facts(), wnids=False), "data ILSVRC-2012"),
    "two columns of one class": (replace(facts(), classes=999), "999 classes"),
    "split train": (replace(facts(), split="train"), "split train"),
    "100 images": (replace(facts(), images=100, images_per_class=(0, 1)), "100 images instead of 50,000"),
    "an image missing": (replace(facts(), images=49_999), "49,999 images"),
    "50,000 others": (replace(facts(), images_per_class=(40, 60)), "classes of 40 to 60 images"),
    "trained on a part": (replace(facts(), train_images=1_000_000), "1,000,000 training images"),
    "trained on other data": (with_net(facts(), trained_on_this_data=False), "trained on other data"),
    "an overridden recipe": (with_net(facts(), recipe="paper-d-jitter (overridden)"), "overridden"),
    "a recipe not of the paper": (with_net(facts(), recipe="tiny-imagenet-16"), "by tiny-imagenet-16"),
    "torchvision's net": (with_net(facts(), recipe="torchvision-d", started_from=()), "by torchvision-d"),
    "another recipe than the row's": (
        with_net(facts(), recipe="paper-e-jitter"),
        "not what paper-e-jitter trains",
    ),
    "an unknown start": (with_net(facts(), started_from=()), "started from unknown weights"),
    "a start that is unknown further back": (
        with_net(facts(), started_from=("paper-d-384",)),
        "unknown weights",
    ),
    "an overridden start": (
        with_net(facts(), started_from=("paper-d-384 (overridden)", "paper-d")),
        "started from paper-d-384 (overridden)",
    ),
    "a start on other data": (
        with_net(facts(), started_from=("paper-d-384", "paper-d (other data)")),
        "other data",
    ),
    "a start of another recipe": (
        with_net(facts(), started_from=("paper-e-384", "paper-e")),
        "paper-d-jitter started from paper-e-384",
    ),
    "an unfinished training": (with_net(facts(), recipe="paper-d-jitter (unfinished)"), "(unfinished)"),
    "a start of an unfinished training, two generations back": (
        with_net(facts(), started_from=("paper-d-384", "paper-d (unfinished)")),
        "started from paper-d (unfinished)",
    ),
    "an overridden start, two generations back": (
        with_net(facts(), started_from=("paper-d-384", "paper-d (overridden)")),
        "started from paper-d (overridden)",
    ),
    "a start from a digest that names nobody": (
        with_net(facts(), started_from=("paper-d-384 (unknown weights)", "paper-d")),
        "unknown weights",
    ),
    "a lineage that goes on after its end": (
        with_net(facts(), started_from=("paper-d-384", "paper-d", "paper-a-normal")),
        "paper-d started from paper-a-normal",
    ),
    "averaged posteriors": (with_net(facts(), average="posteriors"), "dense averages posteriors"),
    "bf16": (with_net(facts(), precision="bf16"), "precision bf16"),
    "an unknown precision": (with_net(facts(), precision="auto"), "precision auto"),
    "a 2x2 grid": (with_net(multi_crop(), grid=2), "grid of 2"),
    "one member in bf16": (with_net(fused(), precision="bf16"), "precision bf16"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_fills_no_cell_and_says_what_differs(name):
    forged, reason = FORGERIES[name]
    assert row_key(forged) is None
    assert any(reason in difference for difference in differences(forged)), differences(forged)
    assert reference(forged) == (None, None)


OTHER_TESTS = {
    "other scales": with_net(facts(), scales=(256, 384)),
    "a fusion's members of other scales": facts(
        net("D", scales=(256, 384), weight=1 / 6), net("E", scales=(384, 512, 256)[:2], weight=1 / 6)
    ),
    "scales that are the row's only together": facts(
        net("D", scales=(256, 384), weight=1 / 4), net("E", scales=(384, 512), weight=1 / 4)
    ),
    "dense of one net and multi-crop of the other": facts(
        net("D", protocol="dense", weight=1 / 6), net("E", protocol="multi-crop", weight=1 / 6)
    ),
    "a fusion with a heavier member": facts(net("D", weight=2 / 9), net("E", weight=1 / 9)),
    "a scale that counts twice": facts(net(scales=(256, 384), weight=1 / 4), net(scales=(512,), weight=1 / 2)),
    "two nets of one configuration": facts(net(weight=1 / 6), replace(net(weight=1 / 6), weights="another")),
    "seven nets of which one is another": facts(
        *(net(c, at, scales=SEVEN_SCALES[at], weight=1 / 21) for c, at in [*SEVEN[:-1], ("B", "256")])
    ),
    "nets that change names between protocols": facts(
        net("D", weight=1 / 12),
        net("E", weight=1 / 12),
        replace(net("D", protocol="multi-crop", weight=1 / 12), weights="sha-E-256-512"),
        replace(net("E", protocol="multi-crop", weight=1 / 12), weights="sha-D-256-512"),
    ),
    "a single crop": facts(net(protocol="single-crop")),
}


@pytest.mark.parametrize("name", OTHER_TESTS)
def test_a_test_that_is_not_the_rows_fills_no_cell(name):
    assert row_key(OTHER_TESTS[name]) is None
    assert reference(OTHER_TESTS[name]) == (None, None)


def test_runs_of_earlier_versions_fill_no_cell():
    for tags in ({}, {"facts": "no JSON"}, {"facts": "[1]"}, {"facts": "{}"}):
        assert Facts.from_tags(tags) is None
    assert row_key(None) is None
    assert "earlier version" in differences(None)[0]


def tiny(**change):
    one = net("D", protocol="dense", scales=(64,), weight=1.0)
    found = Facts("Tiny ImageNet", "digest", "val", 10_000, 100_000, 200, True, (50, 50), (one,))
    return replace(found, **change)


def test_tiny_imagenet_is_compared_with_the_stronger_study():
    assert tiny_imagenet_errors(tiny()) == (63.08, 46.52)
    assert reference(tiny()) == (46.52, None)
    assert reference(tiny(train_images=90_000)) == (46.52, None), "less a hold-out"


@pytest.mark.parametrize(
    "other",
    [
        tiny(split="train"),
        tiny(images=500),
        tiny(classes=10),
        tiny(train_images=5000),
        tiny(train_images=89_999),
        tiny(source="image folder tiny"),
        with_net(tiny(), scales=(72,)),
        tiny(nets=(net(scales=(64,), weight=0.5), net("E", scales=(64,), weight=0.5))),
    ],
)
def test_other_tests_are_not_compared_with_the_studies(other):
    assert tiny_imagenet_errors(other) == (None, None)
    assert reference(other) == (None, None)
