"""Whether a test was made as the paper's were, and of which row of its tables it is then."""

import re
from collections import Counter
from itertools import pairwise

from vgg.recipes.registry import RECIPES
from vgg.reporting.facts import Facts, NetFacts
from vgg.reporting.paper_results import MULTI_SCALE, TABLES, TINY_IMAGENET, Errors, ResultKey
from vgg.testing.protocols import GRID

ILSVRC = "ILSVRC-2012"
"""Source that only `pipelines.sources.ilsvrc` writes."""
CLASSES, TRAIN_IMAGES, VAL_IMAGES = 1000, 1_281_167, 50_000

EARLIER_VERSION = "tracked by an earlier version, or edited since: evaluate again"


def differences(facts: Facts | None) -> list[str]:
    """What differs from the paper's tests in any of its tables; empty if nothing."""
    if facts is None:
        return [EARLIER_VERSION]
    found = _differences_of_data(facts)
    for net in facts.nets:
        if reason := difference_of_chain(net):
            found.append(reason)
        if not net.trained_on_this_data:
            found.append(f"{net.net} was trained on other data")
        if net.precision != "fp32":
            found.append(f"precision {net.precision}")
        if net.protocol == "multi-crop" and net.grid != GRID:
            found.append(f"grid of {net.grid}")
        if net.protocol == "dense" and net.average != "scores":
            found.append(f"dense averages {net.average}")
    return list(dict.fromkeys(found))


def row_key(facts: Facts | None) -> ResultKey | None:
    """Of the rows that the test belongs to: each net tested as the row says. None if it is of no row."""
    if facts is None or differences(facts):
        return None
    keys = {row.key for table in TABLES for row in table.rows if row.key is not None}
    return next((key for key in keys if _tested(facts) == _expected(key)), None)


def tiny_imagenet_errors(facts: Facts | None) -> tuple[float | None, float | None]:
    """Published top-1 errors to show beside a test: with batch normalisation, of a plain VGG.

    None where there is none to compare with. Comparable is one net on all of Tiny ImageNet's validation images
    at 64×64, trained on all of its training images or on all but a tenth, by which choices are made.
    """
    if (
        facts is None
        or len({net.weights for net in facts.nets}) != 1
        or not facts.source.startswith("Tiny ImageNet")
    ):
        return None, None
    whole = (facts.split, facts.images, facts.classes) == ("val", 10_000, 200)
    whole &= 90_000 <= facts.train_images <= 100_000
    if not whole or any(net.scales != (64,) for net in facts.nets):
        return None, None
    return TINY_IMAGENET.get(facts.nets[0].net.partition("@")[0], (None, None))


def reference(facts: Facts | None) -> Errors:
    """Published errors that the test may be compared with: the paper's or, on Tiny ImageNet, the lowest."""
    key = row_key(facts)
    if key is not None:
        return next(row.errors for table in TABLES for row in table.rows if row.key == key)
    tiny = [error for error in tiny_imagenet_errors(facts) if error is not None]
    return (min(tiny) if tiny else None), None


def _differences_of_data(facts: Facts) -> list[str]:
    found = []
    if facts.source != ILSVRC or facts.classes != CLASSES or not facts.wnids:
        found.append(f"data {facts.source}, {facts.classes} classes")
    elif facts.train_images != TRAIN_IMAGES:
        found.append(f"{facts.train_images:,} training images instead of {TRAIN_IMAGES:,}")
    if facts.split != "val":
        found.append(f"split {facts.split}")
    if facts.images != VAL_IMAGES:
        found.append(f"{facts.images:,} images instead of {VAL_IMAGES:,}")
    elif facts.images_per_class != (VAL_IMAGES // CLASSES, VAL_IMAGES // CLASSES):
        found.append(f"classes of {facts.images_per_class[0]} to {facts.images_per_class[1]} images")
    return found


def difference_of_chain(net: NetFacts) -> str | None:
    """Why a net is not the end of a chain of the paper's recipes, each as it is; None if it is."""
    chain = (net.recipe, *net.started_from)
    for recipe in chain:
        if not recipe.startswith("paper-") or recipe not in RECIPES:
            return f"{net.net} by {recipe}" if recipe == net.recipe else f"{net.net} started from {recipe}"
    settings = RECIPES[net.recipe][1]
    scales = (settings.input.min_scale, settings.input.max_scale)
    trained_at = f"{scales[0]}" if scales[0] == scales[1] else f"{scales[0]}-{scales[1]}"
    if f"{settings.model.configuration}@{trained_at}" != net.net:
        return f"{net.net} is not what {net.recipe} trains"
    for recipe, start in pairwise(chain):
        if start not in _starts(recipe):
            return f"{recipe} started from {start}"
    if _starts(chain[-1]):
        return f"{chain[-1]} started from unknown weights"
    return None


def _starts(recipe: str) -> tuple[str, ...]:
    """The recipes that a recipe of the paper may start from; none if it starts from random weights."""
    if jittered := re.fullmatch(r"(paper-[a-e])-jitter", recipe):
        return (f"{jittered[1]}-384",)
    if of_boxes := re.fullmatch(r"(paper-[a-e])-boxes-(256|384)(-single)?(-fc)?", recipe):
        return (f"{of_boxes[1]}-384",) if of_boxes[2] == "384" else (of_boxes[1], f"{of_boxes[1]}-from-a")
    if fine_tuned := re.fullmatch(r"(paper-[a-e])-384", recipe):
        return fine_tuned[1], f"{fine_tuned[1]}-from-a"
    return ("paper-a-normal",) if re.fullmatch(r"paper-[b-e]-from-a", recipe) else ()


def _tested(facts: Facts) -> Counter[tuple[str, str, tuple[int, ...]]] | None:
    """(net, protocol, scales) of all members; None if they have different shares in the mean, or a net
    is there twice.
    """
    of_net = {net.net: net.weights for net in facts.nets}
    pairs = {(net.net, net.weights) for net in facts.nets}
    if not len(pairs) == len(of_net) == len(set(of_net.values())):
        return None
    shares = dict.fromkeys(of_net, 0.0)
    for net in facts.nets:
        shares[net.net] += net.weight * len(net.scales)
    protocols = Counter((net.net, net.protocol) for net in facts.nets)
    equal_within = all(len({n.weight for n in facts.nets if n.net == name}) == 1 for name in of_net)
    equal_between = max(shares.values()) - min(shares.values()) < 1e-3
    if not equal_within or not equal_between or max(protocols.values()) > 1:
        return None
    return Counter((net.net, net.protocol, net.scales) for net in facts.nets)


def _expected(key: ResultKey) -> Counter[tuple[str, str, tuple[int, ...]]]:
    """What a row's nets are tested by: a fusion's each at the three scales of its own training scale."""
    protocols = ("dense", "multi-crop") if key.protocol == "both" else (key.protocol,)
    return Counter(
        (net, protocol, key.scales if len(key.nets) == 1 else MULTI_SCALE[net.partition("@")[2]])
        for net in key.nets
        for protocol in protocols
    )
