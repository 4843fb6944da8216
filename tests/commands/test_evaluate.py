"""Evaluation as a whole: against plain PyTorch and PIL, over any workers, resumed, refused.

Shapes: B images or crops, C = 3, H and W image sides in pixels, K classes.
"""

import io
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cli.errors import UserError
from cluster.layout import Worker
from pipelines.loading.whole_images import whole_images
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import StagingOptions
from pipelines.storage.folder import Folder
from tests import entry_point
from tests.conftest import ROOT
from tests.photos import picture
from vgg import evaluate as evaluation
from vgg.evaluate import EvaluateOptions, requested_evaluations
from vgg.net.architecture import CONFIGURATIONS, Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.registry import RECIPES
from vgg.testing import posteriors
from vgg.testing.opened_split import SplitOptions
from vgg.testing.protocols import Pass, derived_scales
from vgg.testing.scales import remark_on_dense
from vgg.testing.scoring import BLOCK, Scorer, ScoringJob, ScoringTask, blocks
from vgg.weights import checkpoint, retention
from vgg.weights.open_net import open_net
from vgg.weights.state import model_state

SHAPES = [(75, 100), (100, 75), (64, 64), (90, 130), (200, 160), (75, 100)]
SIDE, IMAGES = 64, 2 * BLOCK + 23
CPU = Worker(0, 1, 0, torch.device("cpu"), 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photos of several shapes, more than two blocks of them."""
    folder = tmp_path_factory.mktemp("evaluated")
    labels = "abcdefg"
    for split, count in (("train", 7), ("val", IMAGES)):
        for i in range(count):
            file = folder / "source" / split / labels[i % 7] / f"{i:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(*SHAPES[i % len(SHAPES)], seed=i).save(file)
    pack(PackOptions(str(folder / "source"), folder / "packed", workers=1))
    return folder / "packed"


def save_net(run: Path, data: Path, seed: int, configuration: str = "D", **more: object) -> str:
    """A run's folder with a checkpoint of random weights, whose posteriors are neither uniform nor sure."""
    manifest = read_manifest(data)
    net = VGG(Architecture(configuration, len(manifest.classes), SIDE, 0.125))
    initialise(net, "glorot", seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.1)
    recipe = asdict(RECIPES["tiny-imagenet-16"][1])
    recipe["model"] |= {"configuration": configuration, "side": SIDE, "width": 0.125}
    metadata = {
        "recipe": recipe,
        "recipe_name": "tiny-imagenet-16",
        "seed": seed,
        "data": manifest.digest,
        "classes": manifest.class_names,
        "mean_rgb": manifest.mean_rgb,
        **more,
    }
    state = checkpoint.Checkpoint(1, model_state(net), {}, torch.zeros(1), metadata)
    retention.write(Folder(str(run)), state, best=True)
    (run / "run.json").write_text("{}")
    return str(run)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return save_net(tmp_path_factory.mktemp("run"), data, seed=5)


def evaluate(cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vgg.evaluate", *arguments]
    return entry_point.run(command, entry_point.environment(cluster.head))


def reference_maps(state: dict[str, torch.Tensor], images_BCHW: torch.Tensor) -> torch.Tensor:
    """Configuration D's last feature map, in plain functions and float64."""
    maps = images_BCHW
    for block, kernels in enumerate(CONFIGURATIONS["D"], start=1):
        for i in range(1, len(kernels) + 1):
            weight, bias = (state[f"conv{block}_{i}.{kind}"].double() for kind in ("weight", "bias"))
            maps = F.relu(F.conv2d(maps, weight, bias, padding=1))
        maps = F.max_pool2d(maps, 2)
    return maps


def classify(state: dict[str, torch.Tensor], maps_BCHW: torch.Tensor) -> torch.Tensor:
    hidden = maps_BCHW.flatten(1)
    for name in ("fc6", "fc7", "fc8"):
        hidden = hidden @ state[f"{name}.weight"].double().T + state[f"{name}.bias"].double()
        hidden = F.relu(hidden) if name != "fc8" else hidden
    return hidden


def rescaled_by_pil(shards, image: int, scale: int) -> np.ndarray:
    """The whole image as uint8 [H, W, C]."""
    file = Image.open(io.BytesIO(shards.encoded(image).tobytes())).convert("RGB")
    width, height = (round(length * scale / min(file.size)) for length in file.size)
    return np.asarray(file.resize((width, height), Image.Resampling.BILINEAR))


def rescaled_by_us(shards, image: int, scale: int) -> np.ndarray:
    """The whole image as uint8 [H, W, C], within two of 255 levels of PIL's; see test_whole_images.py."""
    device = torch.device("cpu")
    (batch,) = whole_images(shards, np.array([image]), scale=scale, pixels=1, device=device, threads=1)
    return batch.images_BHWC[0].numpy()


def reference_posterior(net, pixels_HWC: np.ndarray, pass_: Pass) -> torch.Tensor:
    """One image, one crop or one place at a time, in float64."""
    whole = torch.from_numpy(pixels_HWC - np.asarray(net.mean_rgb)).permute(2, 0, 1)[None]
    height, width = whole.shape[2:]
    side, posterior_terms = net.architecture.side, []
    if pass_.protocol == "dense":
        s = side // 32
        for view in (whole, whole.flip(3)):
            maps = reference_maps(net.weights, view)
            scores = [
                classify(net.weights, maps[:, :, top : top + s, left : left + s])
                for top in range(maps.shape[2] - s + 1)
                for left in range(maps.shape[3] - s + 1)
            ]
            posterior_terms.append(torch.stack(scores).mean(0).softmax(1))
        return torch.cat(posterior_terms).mean(0)
    many = pass_.protocol == "multi-crop"
    for i in range(5) if many else [2]:
        for j in range(5) if many else [2]:
            # Quarters of the margin, halves rounded up for the grid and down for the centre.
            margins = ((height - side, i), (width - side, j))
            top, left = (math.floor(m * k / 4 + 0.5) if many else m // 2 for m, k in margins)
            crop = whole[:, :, top : top + side, left : left + side]
            for view in (crop, crop.flip(3)) if many else (crop,):
                posterior_terms.append(classify(net.weights, reference_maps(net.weights, view)).softmax(1))
    return torch.cat(posterior_terms).mean(0)


@pytest.mark.parametrize("protocol", ["single-crop", "dense", "multi-crop"])
def test_posteriors_are_those_of_plain_pytorch(data, run, protocol):
    """From the same pixels to 1e-5; from the file by PIL's, which differ a little, nearly so.

    A single crop is decoded alone, without the rest of its image: a few pixels are rounded the other way.
    """
    exact = 1e-3 if protocol == "single-crop" else 1e-5
    net, pass_, images = open_net(run), Pass(protocol, 72), range(BLOCK, BLOCK + 6)
    score = Scorer(CPU, ScoringJob((net,), SplitOptions(StagingOptions(str(data)), "val")))
    found = score(ScoringTask(0, pass_, images.start, images.stop)).posteriors_BK
    shards = Shards(data, read_manifest(data), "val")
    for rescaled, tolerance in ((rescaled_by_us, exact), (rescaled_by_pil, 5e-3)):
        pixels = [rescaled(shards, image, 72) for image in images]
        expected = torch.stack([reference_posterior(net, each, pass_) for each in pixels]).numpy()
        assert expected.std(1).min() > 0.02, "posteriors this uniform would hide a mistake"
        assert expected.std(0).max() > 0.01, "all images alike"
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_bf16_stays_near(data, run):
    """On a CPU too, where fp32 has convolutions of its own."""
    task, stage = ScoringTask(0, Pass("dense", 72), 0, 6), StagingOptions(str(data))
    fp32, bf16 = (
        Scorer(CPU, ScoringJob((open_net(run),), SplitOptions(stage, "val", precision)))(task).posteriors_BK
        for precision in ("fp32", "bf16")
    )
    assert 0 < np.abs(fp32 - bf16).max() < 0.02


@pytest.mark.parametrize("protocol", ["single-crop", "dense", "multi-crop"])
def test_the_number_of_crops_at_once_changes_nothing(data, run, protocol):
    net, task = open_net(run), ScoringTask(0, Pass(protocol, 72), 0, 7)
    first, *others = (
        Scorer(CPU, ScoringJob((net,), SplitOptions(StagingOptions(str(data)), "val", batch=batch)))(
            task
        ).posteriors_BK
        for batch in (32, 1, 500)
    )
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)


def test_blocks_cover_every_image_once():
    for images in (1, BLOCK - 1, BLOCK, BLOCK + 1, 50_000):
        assert [i for first, stop in blocks(images) for i in range(first, stop)] == list(range(images))


@pytest.fixture(scope="module")
def evaluated(ray_cluster, data, run, tmp_path_factory):
    """Two workers; the folder of the net's results."""
    out = tmp_path_factory.mktemp("evaluations")
    flags = [f"--data={data}", f"--out={out}", "--layout.workers=2", "--layout.wait-seconds=120"]
    protocols = ["--protocols", "single-crop", "dense", "--scales", "single", "several"]
    done = evaluate(ray_cluster, run, *flags, *protocols)
    assert done.returncode == 0, done.stdout
    (net,) = out.iterdir()
    return done.stdout, net


def results(net: Path) -> dict[str, dict]:
    return {file.parent.name: json.loads(file.read_text()) for file in net.glob("*/result.json")}


def test_every_test_leaves_its_result(evaluated, data):
    output, net = evaluated
    found = results(net)
    assert set(found) == {"single-crop-72", "single-crop-64+72+80", "dense-72", "dense-64+72+80"}
    manifest = read_manifest(data)
    for name, result in found.items():
        kept = posteriors.read(Folder(str(net)), f"{name}/posteriors.arrow")
        assert result["images"] == IMAGES == len(set(kept.keys))
        assert result["posteriors_sha256"] == kept.digest
        assert result["data"]["digest"] == manifest.digest
        wrong = int((np.asarray(kept.posteriors_NK).argmax(1) != kept.labels_N).sum())
        assert result["top1_wrong"] == wrong
        low, high = result["top1_interval"]
        assert low < result["top1_error"] < high
        assert f"{result['top1_error']:.2f}" in output


def test_several_scales_are_the_mean_of_each(evaluated, data, run):
    _, folder = evaluated
    net = open_net(run)
    score = Scorer(CPU, ScoringJob((net,), SplitOptions(StagingOptions(str(data)), "val")))
    each = [score(ScoringTask(0, Pass("dense", scale), 0, 40)).posteriors_BK for scale in (64, 72, 80)]
    kept = posteriors.read(Folder(str(folder)), "dense-64+72+80/posteriors.arrow")
    np.testing.assert_allclose(kept.posteriors_NK[:40], np.mean(each, axis=0), atol=1e-6)


def test_one_worker_or_three_give_the_same(ray_cluster, evaluated, data, run, tmp_path):
    """And an evaluation that shares passes with others gives the same alone."""
    expected = results(evaluated[1])["dense-72"]
    for workers in (1, 3):
        out = tmp_path / str(workers)
        flags = [f"--data={data}", f"--out={out}", f"--layout.workers={workers}", "--protocols=dense"]
        flags.append("--scales=single")
        done = evaluate(ray_cluster, run, *flags, "--layout.wait-seconds=120")
        assert done.returncode == 0, done.stdout
        (found,) = results(next(out.iterdir())).values()
        assert found == {**expected, "tracked_at": None}


def test_what_was_scored_is_not_scored_again(ray_cluster, evaluated, data, run, tmp_path):
    """With all passes saved no cluster is needed; of a damaged pass only the damaged block is scored again."""
    out = tmp_path / "out"
    shutil.copytree(evaluated[1].parent, out)
    (net,) = out.iterdir()
    before = (net / "dense-72" / "result.json").read_text()
    flags = [run, f"--data={data}", f"--out={out}", "--protocols=dense", "--scales=single"]
    nowhere = {**entry_point.environment(ray_cluster.head), "RAY_ADDRESS": "127.0.0.1:1"}
    shutil.rmtree(net / "dense-72")
    done = entry_point.run([sys.executable, "-m", "vgg.evaluate", *flags], nowhere)
    assert done.returncode == 0, done.stdout
    assert (net / "dense-72" / "result.json").read_text() == before

    block_files = {file.name: file for file in net.glob("parts/dense-72-*/*")}
    written = {name: file.stat().st_mtime_ns for name, file in block_files.items()}
    name = f"fp32-{BLOCK:08d}.arrow"
    damaged = bytearray(block_files[name].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    block_files[name].write_bytes(damaged)
    done = evaluate(ray_cluster, *flags, "--layout.wait-seconds=120")
    assert f"{name} is damaged" in done.stdout
    assert (net / "dense-72" / "result.json").read_text() == before
    again = {name for name, file in block_files.items() if file.stat().st_mtime_ns != written[name]}
    assert again == {name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scales": ("48",)}, "--scales 48 is smaller than the crop of 64"),
        ({"scales": ("many",)}, "--scales many is not validation, single, several, or numbers"),
        ({"scales": ("72,",)}, "--scales 72, is not validation, single, several, or numbers"),
        ({"scales": ("72,72",)}, "--scales 72,72 names a scale twice"),
        ({"scales": ("1000000000",)}, "--scales 1000000000 is not"),
        ({"scales": ("999999999",)}, "--scales 999999999 is larger than 4096"),
        ({"scales": ("²",)}, "--scales ² is not"),
        ({"scales": ("-72",)}, "--scales -72 is not"),
        ({"nets": ()}, "NETS must be at least one net"),
        ({"out": "/proc/nowhere"}, "--out /proc/nowhere"),
        ({"nets": ("/nowhere",)}, "/nowhere is neither a checkpoint nor a run's folder"),
        ({"nets": ("/nowhere.pth",)}, "no weights file /nowhere.pth"),
    ],
)
def test_mistakes_are_reported_before_anything_is_started(data, run, change, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        evaluation.evaluate(EvaluateOptions(**{"nets": (run,), "data": str(data), **change}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": ("val", "test")}, "--split test must be one of train, val"),
        ({"data": "/nowhere"}, "no folder --data /nowhere"),
    ],
)
def test_data_that_is_not_there_is_reported(data, run, change, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        evaluation.evaluate(EvaluateOptions(**{"nets": (run,), "data": str(data), **change}))


def test_several_splits_are_tested_and_shown_beside_each_other(data, run, tmp_path, monkeypatch, capsys):
    """By a scorer in this process: that workers share the tasks is tested above."""

    def score_here(make, job, tasks, layout):
        scorer = make(CPU, job)
        return [(task, scorer(task)) for task in tasks]

    monkeypatch.setattr(evaluation, "on_workers", score_here)
    flags = [f"--data={data}", f"--out={tmp_path}", "--split", "train", "val"]
    monkeypatch.setattr(sys, "argv", ["evaluate", run, *flags])
    evaluation.main()
    found = {file.parent.name: json.loads(file.read_text()) for file in tmp_path.glob("*/*/result.json")}
    by_split = {result["data"]["split"]: result for result in found.values()}
    assert {split: result["images"] for split, result in by_split.items()} == {"train": 7, "val": IMAGES}
    printed = capsys.readouterr().out
    cells = [f"{by_split[split]['top1_error']:.2f} (" for split in ("train", "val")]
    (row,) = [line for line in printed.splitlines() if all(cell in line for cell in cells)]
    assert row.index(cells[0]) < row.index(cells[1])
    assert ", Q = 64, split train: top-1 error" in printed


def test_ray_is_not_imported_before_there_is_something_to_score():
    """It takes a second, which a mistake, or a result that is there already, does not wait for."""
    program = "import sys, vgg.evaluate; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_the_exit_code_of_a_mistake_is_2(data, run):
    command = [sys.executable, "-m", "vgg.evaluate", run, f"--data={data}", "--scales=48"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --scales 48 is smaller than the crop of 64")


def test_a_net_of_other_classes_is_refused(data, run, digits):
    net = open_net(run)
    with pytest.raises(UserError, match=r"has 7 classes, .* has 10"):
        net.check_classes(read_manifest(digits), digits)


def test_a_net_that_is_named_twice_is_refused(data, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(UserError, match="are the same net: name it once"):
        evaluation.evaluate(EvaluateOptions((run, str(copy)), str(data), out=str(tmp_path / "out")))


def test_by_default_the_scale_is_that_of_validation(data, run):
    """So that single-crop says what validation said during training."""
    net = open_net(run)
    (found,) = requested_evaluations(net, EvaluateOptions((run,), str(data)))
    assert found.name == f"single-crop-{net.training_input.test_scale}" == "single-crop-64"
    for name, (_, recipe) in RECIPES.items():
        if name.startswith("paper-"):
            assert derived_scales(recipe.input, recipe.model.side, False) == (recipe.input.test_scale,)


@pytest.mark.parametrize(
    ("scales", "told"), [((64,), True), ((64, 80), True), ((96,), False), ((64, 96), False)]
)
def test_where_dense_has_one_place_is_told(run, scales, told):
    """The map of a net for 64 pixels is 2x2 up to 95 pixels: as large as its first fully connected layer's."""
    remark = remark_on_dense(open_net(run), scales)
    assert (remark is not None) == told
    assert remark is None or "has one place" in remark


def test_scales_are_derived_or_given(data, run):
    net = open_net(run)
    evaluations = requested_evaluations(
        net, EvaluateOptions((run,), str(data), ("dense", "both"), ("single", "64,80", "72"))
    )
    names = [evaluation.name for evaluation in evaluations]
    assert names == ["dense-72", "dense-64+80", "both-72", "both-64+80"]
