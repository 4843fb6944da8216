"""Where a box net starts: at the mean training box, worked out here from the files alone."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from cli.errors import UserError
from cluster.layout import Worker
from pipelines.loading.draw import Augment
from tests.boxes import made
from vgg.boxes.start import mean_answer
from vgg.net.architecture import Architecture
from vgg.recipes.check import check_recipe
from vgg.recipes.registry import BOX_NETS, RECIPES
from vgg.training.opening import OpenedTraining
from vgg.weights.open_run import open_run

ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)
EDGES = ("xmin", "ymin", "xmax", "ymax")


def mean_boxes(source, side, scale):
    """Class -> (centre x, centre y, width, height) in the mean training crop, mirrored half of the time."""
    found: dict[str, list[tuple[float, ...]]] = {"a": [], "b": []}
    for file in sorted((source / "train").rglob("*.png")):
        xml = source / "Annotations" / f"{file.stem}.xml"
        if not xml.exists():
            continue
        width, height = Image.open(file).size
        root = ElementTree.parse(xml).getroot()
        x0, y0, x1, y1 = (float(root.findtext(f"object/bndbox/{edge}", "")) for edge in EDGES)
        wide, high = (int(length * scale / min(width, height) + 0.5) for length in (width, height))
        centre_y = ((y0 + y1) / 2 / height * high - (high - side) / 2) / side
        found[file.parent.name].append(
            (0.5, centre_y, (x1 - x0) / width * wide / side, (y1 - y0) / height * high / side)
        )
    return found


def first_net(job):
    """The net before the first update, as rank 0 sets it."""
    with_data = OpenedTraining.on(ALONE, job, open_run, "fp32")
    try:
        return with_data.net
    finally:
        with_data.close()


@pytest.mark.parametrize("boxes", ["single", "per-class"])
def test_before_the_first_update_it_answers_the_mean_box(boxed, classifier, tmp_path, boxes):
    asked = made.job("boxes", boxed, tmp_path, made.box_recipe(1, classifier, boxes=boxes))
    crop = asked.plan.recipe.input
    assert crop.min_scale == crop.max_scale == 37, "256 at 224 is 37 at 32"
    found = mean_boxes(boxed.parent / "source", made.SIDE, 37)
    groups = [found["a"] + found["b"]] if boxes == "single" else [found["a"], found["b"]]
    wanted = np.concatenate([np.mean(group, 0) for group in groups])
    net = first_net(asked)
    images_BCHW = 100 * torch.rand(3, 3, made.SIDE, made.SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers_BK = net(images_BCHW).flatten(1)
    np.testing.assert_allclose(answers_BK.numpy(), np.tile(wanted, (3, 1)), rtol=1e-6)
    start = open_run(str(classifier)).weights
    assert torch.equal(net.fc7.weight, start["fc7.weight"]), "the layers before it are the classifier's"


def test_at_random_it_answers_what_the_image_makes_of_it(boxed, classifier, tmp_path):
    asked = made.job("boxes", boxed, tmp_path, made.box_recipe(1, classifier, box_start="random"))
    net = first_net(asked)
    assert net.fc8.weight.std() > 0
    assert not net.fc8.bias.any()


def test_a_class_without_a_box_has_the_mean_of_all():
    boxes_N4 = np.array([[0, 0, 0.5, 0.5], [np.nan] * 4, [0.5, 0.5, 1, 1]])
    sizes_N = np.full(3, 32)
    labels_N = np.array([0, 1, 2])
    augment, architecture = Augment(32, 32, 32, False), Architecture("A", 3, 32, boxes="per-class")
    found = mean_answer(boxes_N4, sizes_N, sizes_N, labels_N, augment, architecture)
    wanted = [0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.75, 0.75, 0.5, 0.5]
    assert found.dtype == torch.float32
    assert found.tolist() == wanted


def test_another_start_is_another_training(boxed, classifier, tmp_path):
    made.train_alone("boxes", boxed, tmp_path, made.box_recipe(1, classifier))
    other = made.job("boxes", boxed, tmp_path, made.box_recipe(2, classifier, box_start="random"))
    with pytest.raises(UserError, match=r"model\.box_start is mean there, random here"):
        OpenedTraining.on(ALONE, other, open_run, "fp32")


def test_a_box_net_that_starts_from_one_keeps_its_last_layer(boxed, classifier, tmp_path):
    first = made.train_alone("boxes", boxed, tmp_path / "first", made.box_recipe(3, classifier))
    asked = made.job("boxes", boxed, tmp_path / "second", made.box_recipe(1, first))
    assert torch.equal(first_net(asked).fc8.weight, open_run(str(first)).weights["fc8.weight"])


def test_the_papers_start_at_random():
    starts = {name: recipe.model.box_start for name, (_, recipe) in BOX_NETS.items()}
    assert starts.pop("boxes") == "mean"
    assert set(starts.values()) == {"random"}


def test_a_classifier_has_no_mean_box():
    recipe = RECIPES["digits"][1]
    with pytest.raises(UserError, match=r"--model\.box-start mean must be used with --model\.boxes"):
        check_recipe(replace(recipe, model=replace(recipe.model, box_start="mean")))
