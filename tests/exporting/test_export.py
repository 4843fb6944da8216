"""Exported nets against independent readers: ONNX Runtime, torch.export, torchvision and timm.

Shapes: B images, C = 3, H and W sides in pixels, K classes.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file

from cli.errors import Failure, UserError
from pipelines.storage.folder import Folder
from vgg import export as command
from vgg.export import ExportOptions, export
from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.registry import RECIPES
from vgg.testing.protocols import dense
from vgg.weights import checkpoint, retention
from vgg.weights.open_net import open_net
from vgg.weights.state import model_state
from vgg.weights.trained_net import TrainedNet

MEAN = [101.0, 115.5, 130.25]


def save_run(folder: Path, configuration: str, *, side: int, width: float, classes: int = 7) -> str:
    """A run's folder with a checkpoint of random weights."""
    net = VGG(Architecture(configuration, classes, side, width))
    initialise(net, "torchvision", 3)
    recipe = asdict(RECIPES["tiny-imagenet-16"][1])
    recipe["model"] |= {"configuration": configuration, "side": side, "width": width}
    metadata = {
        "recipe": recipe,
        "recipe_name": "tiny-imagenet-16",
        "seed": 11,
        "data": "d" * 64,
        "data_name": "Tiny ImageNet",
        "classes": [f"class {i}" for i in range(classes)],
        "mean_rgb": MEAN,
        "validations": [],
    }
    state = checkpoint.Checkpoint(1, model_state(net), {}, torch.zeros(1), metadata)
    retention.write(Folder(str(folder)), state, best=True)
    return str(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    """What torchvision lacks, at a small width."""
    return save_run(tmp_path_factory.mktemp("small") / "run", "C", side=64, width=0.05)


@pytest.fixture(scope="module")
def normalised(tmp_path_factory) -> str:
    """A net with local response normalisation."""
    return save_run(tmp_path_factory.mktemp("normalised") / "run", "A-LRN", side=64, width=0.05)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> str:
    """Configuration A as the paper has it."""
    return save_run(tmp_path_factory.mktemp("full") / "run", "A", side=224, width=1.0)


def pixels(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(batch)) * 255


def own_scores(run: str, images_BCHW: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return open_net(run).module()(images_BCHW - torch.tensor(MEAN)[:, None, None]).mean((2, 3))


def agree(ours_BK: torch.Tensor, theirs_BK: torch.Tensor) -> bool:
    return bool((ours_BK - theirs_BK).abs().max() <= 1e-5 * max(1.0, float(ours_BK.abs().max())))


def in_onnx_runtime(file: Path, images_BCHW: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(file)
    (scores_BK,) = session.run(["scores"], {"images": images_BCHW.numpy()})
    return torch.from_numpy(scores_BK)


def test_onnx_runs_in_its_runtime_with_any_batch(normalised, tmp_path):
    export(ExportOptions(normalised, tmp_path, "onnx"))
    for batch in (1, 3):
        images_BCHW = pixels(batch, 64, 64)
        scores_BK = in_onnx_runtime(tmp_path / "model.onnx", images_BCHW)
        assert agree(own_scores(normalised, images_BCHW), scores_BK)


SIZES = [(96, 96), (100, 131), (160, 96)]


def test_dense_in_onnx_takes_images_of_any_size(small, tmp_path):
    export(ExportOptions(small, tmp_path, "onnx", "dense"))
    for size in SIZES:
        images_BCHW = pixels(2, *size)
        assert agree(own_scores(small, images_BCHW), in_onnx_runtime(tmp_path / "model.onnx", images_BCHW))


def test_dense_in_torch_export_is_the_papers_protocol(normalised, tmp_path):
    """Of any size; with the mirror image, the posteriors of `vgg.evaluate --protocols dense`."""
    export(ExportOptions(normalised, tmp_path, "torch-export", "dense"))
    run = torch.export.load(tmp_path / "model.pt2").module()
    for size in SIZES:
        images_BCHW = pixels(2, *size)
        assert agree(own_scores(normalised, images_BCHW), run(images_BCHW))
    both_BK = (run(images_BCHW).softmax(1) + run(images_BCHW.flip(3)).softmax(1)) / 2
    with torch.inference_mode():
        ours_BK = dense(open_net(normalised).module(), images_BCHW - torch.tensor(MEAN)[:, None, None])
    assert both_BK.numpy() == pytest.approx(ours_BK.numpy(), abs=1e-5)


def test_torchvision_and_timm_take_their_own_names(full, tmp_path):
    images_BCHW = pixels(1, 224, 224)
    ours_BK = own_scores(full, images_BCHW)
    export(ExportOptions(full, tmp_path / "torchvision", "torchvision"))
    config = json.loads((tmp_path / "torchvision" / "config.json").read_text())
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    standardised_BCHW = (images_BCHW / 255 - mean) / std
    theirs = torchvision.models.vgg11(num_classes=7, init_weights=False).eval()
    theirs.load_state_dict(load_file(tmp_path / "torchvision" / "model.safetensors"))
    with torch.inference_mode():
        assert agree(ours_BK, theirs(standardised_BCHW))
    del theirs
    export(ExportOptions(full, tmp_path / "timm", "timm"))
    file = tmp_path / "timm" / "model.safetensors"
    net = timm.create_model("vgg11", num_classes=7, checkpoint_path=str(file)).eval()
    with torch.inference_mode():
        assert agree(ours_BK, net(standardised_BCHW))


def result_of(net: TrainedNet) -> dict[str, Any]:
    """result.json of a test, as an earlier version wrote it."""
    return {
        "kind": "eval",
        "members": [{"weights_sha256": net.weights_sha256, "precision": "fp32"}],
        "data": {"source": "Tiny ImageNet", "split": "val"},
        "protocol": "dense",
        "scales": [64, 80],
        "images": 10_000,
        "top1_error": 47.5,
        "top1_interval": [46.5, 48.5],
        "top5_error": 22.25,
        "top5_interval": [21.4, 23.1],
        "posteriors_sha256": "a",
    }


def write_results(folder: Path, **results: dict[str, Any]) -> tuple[str]:
    """The folder of these tests."""
    for name, result in results.items():
        (folder / name / "spool-1a2b3c4d").mkdir(parents=True)  # of a tracked test
        (folder / name / "spool-1a2b3c4d" / "lock").touch()
        (folder / name / "result.json").write_text(json.dumps(result))
    return (str(folder),)


def test_the_card_says_what_the_net_is_and_how_well_it_does(small, tmp_path):
    net = open_net(small)
    result = result_of(net)
    others = {
        **result,
        "members": [{**result["members"][0], "weights_sha256": "0"}],
        "top1_error": 1.0,
        "posteriors_sha256": "b",
    }
    results = write_results(tmp_path / "tests", dense=result, other=others)
    lines = export(ExportOptions(small, tmp_path / "out", results=results))
    card = (tmp_path / "out" / "README.md").read_text()
    row = "| dense | 64, 80 | fp32 | 10,000 | 47.50 (46.50 to 48.50) | 22.25 (21.40 to 23.10) |"
    assert row in card
    assert card.count("| Tiny ImageNet, val |") == 1
    for text in (net.weights_sha256, "seed | 11", "ImageNet's terms: non-commercial", "dddddddddddddddd"):
        assert text in card
    assert f"hf upload USER/{net.name} {tmp_path / 'out'} ." in lines[-1]
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == net.weights.keys()


def test_the_card_of_five_classes_has_their_largest_and_no_top_5(tmp_path):
    """A test by an earlier version, which did not tell the share, stands beside a new one."""
    run = save_run(tmp_path / "run", "A", side=32, width=0.05, classes=5)
    earlier = result_of(open_net(run))
    new = {**earlier, "posteriors_sha256": "b", "protocol": "both", "top1_error": 40.0, "majority_share": 0.25}
    results = write_results(tmp_path / "tests", earlier=earlier, new=new)
    export(ExportOptions(run, tmp_path / "out", results=results))
    card = (tmp_path / "out" / "README.md").read_text()
    table = [line for line in card.partition("## Results")[2].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0][4:] == ["images", "largest class, %", "top-1 error, % (95 %)"]
    assert [row[4:6] for row in cells[2:]] == [["10,000", "–"], ["10,000", "25.0"]]
    assert {len(row) for row in cells} == {7}
    assert "\nIntervals are Wilson's, over images. The largest class's share" in card
    assert "top-5" not in card


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "torchvision"}, "--format torchvision: it has no configuration C"),
        ({"format": "timm"}, "--format timm: it has no configuration"),
        ({"format": "safetensors", "form": "dense"}, "--form dense is for --format onnx and torch-export"),
        ({"net": "/nowhere"}, "neither a checkpoint nor a run's folder"),
        ({"results": ("/nowhere",)}, "--results /nowhere is no folder with results"),
    ],
)
def test_what_cannot_be_exported_is_refused(small, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        export(ExportOptions(**{"net": small, "out": tmp_path / "out", **given}))


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_a_file_of_somebody_is_not_written_over(small, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=rf"--out .* must be a folder of its own: it has a {name}"):
        export(ExportOptions(small, tmp_path))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {name: "{}"}


def test_an_export_again_is_written_over_and_a_mistake_leaves_it(small, tmp_path):
    export(ExportOptions(small, tmp_path))
    (tmp_path / "README.md").write_text("to be made again")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(UserError, match="--results"):
        export(ExportOptions(small, tmp_path, results=("/nowhere",)))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    export(ExportOptions(small, tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert (tmp_path / "README.md").read_bytes() != before["README.md"]


def test_a_result_that_is_damaged_is_told(small, tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "result.json").write_text('{"kind": "eval"}')
    with pytest.raises(
        UserError, match=r"tests a result\.json of an evaluation is damaged \(KeyError\('members'"
    ):
        export(ExportOptions(small, tmp_path / "out", results=(str(tmp_path / "tests"),)))
    assert not (tmp_path / "out").exists()


def test_a_net_of_another_side_is_no_net_of_torchvision(tmp_path):
    run = save_run(tmp_path / "run", "A", side=32, width=0.05)
    with pytest.raises(UserError, match="its nets are of side 224 and width 1, this one is of side 32"):
        export(ExportOptions(run, tmp_path / "new" / "out", "timm"))
    assert not (tmp_path / "new").exists()


def test_a_file_that_gives_other_scores_is_not_left(small, tmp_path, monkeypatch):
    """As an exporter's bug would: the reader's scores are those of another net."""
    write = command.write

    def wrong(*given):
        run = write(*given)
        assert run is not None
        return lambda images_BCHW: run(images_BCHW) * 1.001

    monkeypatch.setattr(command, "write", wrong)
    with pytest.raises(Failure, match="gives other scores than the net"):
        export(ExportOptions(small, tmp_path, "torch-export"))
    assert not (tmp_path / "model.pt2").exists()
