"""Localisation tests as a whole: against plain PyTorch, over any workers, resumed, fused, refused.

Shapes: P places, K classes; 4: xmin, ymin, xmax, ymax as fractions of the image.
"""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from cli.errors import UserError
from cluster.layout import Layout
from pipelines.loading.draw import rescaled
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from tests.boxes import made
from tests.localisation.test_merging import by_brute_force
from tests.runners import in_this_process, in_two_processes, one_thread
from vgg import localise
from vgg.localisation.errors import BoxErrors
from vgg.localisation.stored import StoredBoxes
from vgg.localise import EvaluateOptions, FuseOptions
from vgg.metrics.interval import wilson_interval
from vgg.testing import scoring
from vgg.weights.open_net import open_net


@pytest.fixture(scope="module")
def small_blocks():
    """Blocks of 8 images, so that a small set has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BLOCK", 8)
        yield


@pytest.fixture(scope="module")
def box_nets(boxed, classifier, tmp_path_factory):
    """A single-class and a per-class net, whose boxes are neither all right nor all wrong."""
    root = tmp_path_factory.mktemp("nets")
    return {
        boxes: made.save_box_net(root / boxes, boxed, classifier, boxes) for boxes in ("single", "per-class")
    }


def run(boxed, net, out, runner=in_this_process, workers=1, **changes):
    layout = Layout(workers=workers)
    options = EvaluateOptions(data=str(boxed), net=str(net), out=str(out), layout=layout, **changes)
    return localise.evaluate(options, runner)


def reference(boxed, net, scale, protocol, classifier=None):
    """Each image with a box by plain PyTorch on PIL's pixels, one place at a time.

    Yields label, truth [m, 4], class probabilities [K], boxes [P, c, 4], scores of places [P, K].
    """
    opened = open_net(str(net))
    module, side = opened.module(), opened.architecture.side
    rating = None if classifier is None else open_net(str(classifier)).module()
    manifest = read_manifest(boxed)
    shards = Shards(boxed, manifest, "val")
    own = shards.own_boxes()
    for i in np.unique(own.images_M):
        image = Image.open(io.BytesIO(shards.encoded(int(i)).tobytes())).convert("RGB")
        lengths = rescaled(np.array([image.height]), np.array([image.width]), np.array([scale]))
        height, width = (int(length[0]) for length in lengths)
        pixels_HWC = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        pixels = torch.tensor(pixels_HWC - np.asarray(opened.mean_rgb, np.float32)).permute(2, 0, 1)[None]
        boxes, scores, means = [], [], []
        for mirror in (False, True) if protocol == "dense" else (False,):
            shown = pixels.flip(3) if mirror else pixels
            if protocol == "centre":
                places = [((height - side) // 2, (width - side) // 2)]
            else:
                places = [(32 * y, 32 * x) for y in range(height // 32) for x in range(width // 32)]
            of_mirror = []
            for top, left in places:
                answers = _at(module, shown, top, left, protocol).flatten().double().numpy().reshape(-1, 4)
                x, y, w, h = answers.T
                edges = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1) * side + [
                    left,
                    top,
                    left,
                    top,
                ]
                if mirror:
                    edges = np.stack([width - edges[:, 2], edges[:, 1], width - edges[:, 0], edges[:, 3]], 1)
                boxes.append(edges / [width, height, width, height])
                if rating is not None:
                    of_mirror.append(_at(rating, shown, top, left, protocol).flatten())
            if rating is not None:
                scores += [score.softmax(0).numpy() for score in of_mirror]
                means.append(torch.stack(of_mirror).mean(0).softmax(0).numpy())
        mean_K = np.mean(means, 0) if means else None
        yield int(shards.labels_N[i]), own.of(int(i)), mean_K, np.array(boxes), np.array(scores)


def _at(module, shown, top, left, protocol):
    """The answer for one crop, or for one place of the whole image's feature map, seen across its edges."""
    side = module.architecture.side
    if protocol == "centre":
        return module(shown[:, :, top : top + side, left : left + side])
    y, x, s = top // 32, left // 32, side // 32
    return module.classify(module.features(shown)[:, :, y : y + s, x : x + s])


def overlap(box_4, truth_m4):
    return box_iou(torch.tensor(np.asarray(box_4)[None]).double(), torch.tensor(truth_m4)).max().item()


def located(box_4, truth_m4):
    return overlap(box_4, truth_m4) > 0.5


@torch.no_grad()
@pytest.mark.parametrize("boxes", ["single", "per-class"])
def test_the_centre_crop_with_the_true_class(small_blocks, boxed, box_nets, tmp_path, boxes):
    result, folder = run(boxed, box_nets[boxes], tmp_path, protocol="centre")
    wrong = 0
    for label, truth_m4, _, found_Pc4, _ in reference(boxed, box_nets[boxes], 37, "centre"):
        wrong += not located(found_Pc4[0, 0 if boxes == "single" else label], truth_m4)
    assert (result["images"], result["top1_wrong"]) == (18, wrong)
    assert 0 < wrong < 18
    assert result["top5_error"] is None
    assert result["top1_interval"] == pytest.approx(wilson_interval(wrong, 18))
    # What always answering the training set's mean box would score.
    statistics = read_manifest(boxed).boxes
    assert statistics is not None
    mean = statistics.mean
    of_mean = sum(not located(mean, truth) for _, truth, *_ in reference(boxed, box_nets[boxes], 37, "centre"))
    assert result["mean_box_wrong"] == of_mean
    of_truth = [overlap(mean, truth) for _, truth, *_ in reference(boxed, box_nets[boxes], 37, "centre")]
    assert result["mean_box_iou"] == pytest.approx(np.mean(of_truth))
    assert result["difference"] == pytest.approx(100 * (wrong - of_mean) / 18)
    low, high = result["difference_interval"]
    assert low < result["difference"] < high, "the interval of a paired bootstrap"
    assert json.loads((folder.local / "result.json").read_text())["top1_wrong"] == wrong
    with Image.open(folder.local / "boxes.png") as picture:
        assert min(picture.size) > 200


@torch.no_grad()
@pytest.mark.parametrize("boxes", ["single", "per-class"])
def test_dense_at_every_place(small_blocks, boxed, box_nets, classifier, tmp_path, boxes):
    """One scale with two by two places or more, and the mirror image's."""
    net = box_nets[boxes]
    result, folder = run(boxed, net, tmp_path, scales="72")
    wrong, overlaps = {1: 0, 5: 0}, []
    stored = StoredBoxes.open(str(folder.local))
    images = [image for first in (0, 8, 16) for image in stored.block(first)]
    for image, (label, truth_m4, mean_K, boxes_Pc4, scores_PK) in zip(
        images, reference(boxed, net, 72, "dense", classifier), strict=True
    ):
        assert image.label == label
        np.testing.assert_allclose(image.posterior_K, mean_K, atol=2e-3)  # pixels are rounded otherwise
        column = 0 if boxes == "single" else label
        places_P4, rates_P = image.of_class(label)
        np.testing.assert_allclose(places_P4, boxes_Pc4[:, column], atol=5e-3)
        np.testing.assert_allclose(rates_P, scores_PK[:, label], atol=5e-3)
        groups = by_brute_force(places_P4.astype(np.float64), rates_P.astype(np.float64), 0.5)
        best = max(groups, key=lambda group: group[1])[0]
        right, is_first = located(best, truth_m4), image.posterior_K.argmax() == label
        overlaps.append(overlap(best, truth_m4) if is_first else 0.0)
        wrong[1] += not (right and is_first)
        wrong[5] += not right  # of two classes the true one is always among the five best
    assert (result["top1_wrong"], result["top5_wrong"]) == (wrong[1], wrong[5])
    assert result["mean_iou"] == pytest.approx(np.mean(overlaps), rel=1e-6)
    assert result["difference"] is None, "the mean box is told the true class"
    assert 0 < np.count_nonzero(overlaps) < 18


def test_interrupted_and_resumed(small_blocks, boxed, box_nets, tmp_path, capsys):
    """Only what is missing or damaged is found again, and the bytes of every block are the same."""
    net = box_nets["per-class"]
    one, folder = run(boxed, net, tmp_path, scales="40,72")
    names = sorted(file.name for file in (folder.local / "boxes").iterdir())
    assert names == ["00000000.arrow", "00000008.arrow", "00000016.arrow"]
    before = {name: (folder.local / "boxes" / name).read_bytes() for name in names}
    (folder.local / "boxes" / names[1]).unlink()
    (folder.local / "boxes" / names[2]).write_bytes(before[names[2]][:-40])
    stamp = (folder.local / "boxes" / names[0]).stat().st_mtime_ns
    capsys.readouterr()
    again, _ = run(boxed, net, tmp_path, scales="40,72")
    assert "00000016.arrow is damaged" in capsys.readouterr().out
    assert again == one
    assert before == {name: (folder.local / "boxes" / name).read_bytes() for name in names}
    assert (folder.local / "boxes" / names[0]).stat().st_mtime_ns == stamp


def test_found_by_two_processes_they_have_the_same_bytes(small_blocks, boxed, box_nets, tmp_path):
    """Whoever finds a block, and in whatever order."""
    results, of_blocks = [], []
    for runner in (in_this_process, in_two_processes):
        with one_thread():
            out = tmp_path / runner.__name__
            result, folder = run(boxed, box_nets["per-class"], out, runner, scales="72")
        results.append(result)
        of_blocks.append({file.name: file.read_bytes() for file in (folder.local / "boxes").iterdir()})
    assert len(of_blocks[0]) == 3
    assert of_blocks[0] == of_blocks[1]
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def results(small_blocks, boxed, box_nets, tmp_path_factory):
    """Folders of dense results of both nets."""
    out = tmp_path_factory.mktemp("fused")
    return [str(run(boxed, net, out, scales="72")[1].local) for net in box_nets.values()]


class TestFusion:
    def options(self, boxed, results, out, **changes):
        return FuseOptions(data=str(boxed), results=tuple(results), out=str(out), **changes)

    def test_the_union_is_merged(self, boxed, results, tmp_path):
        result, _ = localise.fuse(self.options(boxed, results, tmp_path / "out"))
        stored = [StoredBoxes.open(path) for path in results]
        shards = Shards(boxed, read_manifest(boxed), "val")
        own = shards.own_boxes()
        wrong = {1: 0, 5: 0}
        images_N = np.unique(own.images_M)
        of_both = [[image for first in (0, 8, 16) for image in each.block(first)] for each in stored]
        for i, one, other in zip(images_N, *of_both, strict=True):
            pairs = [image.of_class(one.label) for image in (one, other)]
            boxes_P4 = np.concatenate([boxes for boxes, _ in pairs]).astype(np.float64)
            scores_P = np.concatenate([scores for _, scores in pairs]).astype(np.float64)
            best = max(by_brute_force(boxes_P4, scores_P, 0.5), key=lambda group: group[1])[0]
            right = located(best, own.of(int(i)))
            wrong[1] += not (right and (one.posterior_K + other.posterior_K).argmax() == one.label)
            wrong[5] += not right
        assert (result["top1_wrong"], result["top5_wrong"]) == (wrong[1], wrong[5])
        assert len(result["members"]) == 2
        backwards, _ = localise.fuse(self.options(boxed, results[::-1], tmp_path / "other"))
        assert backwards["identity"] == result["identity"]
        with pytest.raises(UserError, match="holds the result of another test"):
            localise.fuse(self.options(boxed, results, tmp_path / "out", threshold=0.9))

    def test_mistakes(self, boxed, results, digits, tmp_path):
        for refused, match in [
            (self.options(boxed, results[:1], tmp_path), "at least two"),
            (self.options(boxed, [results[0]] * 2, tmp_path), "results of one test"),
            (self.options(boxed, results, results[0]), "is one of the results"),
            (self.options(boxed, [results[0], str(tmp_path)], tmp_path / "x"), "holds no boxes"),
            (self.options(boxed, results, tmp_path / "x", threshold=0.0), "--threshold"),
            (self.options(digits, results, tmp_path / "x"), "no image with a box"),
        ]:
            with pytest.raises(UserError, match=match):
                localise.fuse(refused)
        assert not (tmp_path / "x").exists()

    def test_a_damaged_block_is_named(self, boxed, results, tmp_path):
        broken = shutil.copytree(results[0], tmp_path / "broken")
        (broken / "boxes" / "00000008.arrow").write_bytes(b"junk")
        with pytest.raises(UserError, match=r"00000008\.arrow is damaged"):
            localise.fuse(self.options(boxed, [str(broken), results[1]], tmp_path / "out"))


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"protocol": "centre", "scales": "37,72"}, "tested at one scale"),
            ({"scales": "16"}, "smaller than the crop"),
            ({"split": "test"}, "no split 'test'"),
            ({"threshold": 2.0}, "--threshold"),
            ({"protocol": "centre", "threshold": 0.4}, "--threshold must be used with --protocol dense"),
            ({"classifier": "/nowhere"}, "--classifier /nowhere"),
        ],
    )
    def test_flags(self, boxed, box_nets, tmp_path, changes, match):
        options = EvaluateOptions(data=str(boxed), net=str(box_nets["single"]), out=str(tmp_path / "out"))
        with pytest.raises(UserError, match=match):
            localise.evaluate(replace(options, **changes))
        assert not (tmp_path / "out").exists()

    def test_a_classifier_has_no_boxes(self, boxed, classifier, tmp_path):
        with pytest.raises(UserError, match="answers classes, not boxes"):
            localise.evaluate(EvaluateOptions(data=str(boxed), net=str(classifier), out=str(tmp_path)))

    def test_data_without_boxes(self, digits, box_nets, tmp_path):
        with pytest.raises(UserError, match="no image with a box"):
            localise.evaluate(EvaluateOptions(data=str(digits), net=str(box_nets["single"]), out=str(tmp_path)))


def test_errors_in_percent_with_intervals():
    fields = BoxErrors(8, 2, None, 0.5, None, ()).to_json()
    assert (fields["top1_error"], fields["top5_error"], fields["mean_box_interval"]) == (25.0, None, None)
    assert fields["top1_interval"] == pytest.approx(wilson_interval(2, 8))
