"""Nets from wherever they are kept, and what they say of single pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from mlflow.tracking._tracking_service import utils as mlflow_utils
from PIL import Image
from safetensors.torch import save_file

from cli.errors import Failure, UserError
from cluster.processes import free_port
from tests import entry_point
from tests.photos import picture
from vgg import predict
from vgg.weights import open_net as opening
from vgg.weights.open_net import TORCHVISION_MEAN, TORCHVISION_STD, open_net


def test_torchvisions_weights_score_as_torchvisions_net_does(vgg11):
    """On pixels of 0 to 255 less its mean, where torchvision's wants standardised ones; padding included."""
    theirs, file = vgg11
    ours = open_net(str(file))
    assert (ours.architecture.configuration, ours.architecture.side, ours.architecture.classes) == ("A", 224, 7)
    pixels_BHWC = np.stack([np.asarray(picture(224, 224, seed=seed)) for seed in range(3)])
    standardised = (pixels_BHWC / 255 - TORCHVISION_MEAN) / TORCHVISION_STD
    with torch.no_grad():
        expected = theirs(torch.tensor(standardised, dtype=torch.float32).permute(0, 3, 1, 2))
        centred = pixels_BHWC.astype(np.float32) - np.asarray(ours.mean_rgb, np.float32)
        found = ours.module()(torch.from_numpy(centred).permute(0, 3, 1, 2)).flatten(1)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4 * float(expected.abs().max()))


def test_safetensors_hold_the_same_net(vgg11, tmp_path):
    net, file = vgg11
    save_file(net.state_dict(), tmp_path / "vgg11.safetensors")
    assert open_net(str(tmp_path / "vgg11.safetensors")).weights_sha256 == open_net(str(file)).weights_sha256


@pytest.mark.parametrize("name", ["garbage.pth", "empty.safetensors", "other.pth", "resnet.pth"])
def test_what_is_no_net_is_refused_by_name(tmp_path, name):
    file = tmp_path / name
    if name == "garbage.pth":
        file.write_bytes(b"no weights at all")
    elif name == "empty.safetensors":
        file.write_bytes(b"")
    elif name == "other.pth":
        torch.save([1, 2], file)
    else:
        torch.save({"conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=name):
        open_net(str(file))


@pytest.mark.parametrize(
    "state",
    [
        {"classifier.6.weight": torch.zeros(3, 8)},
        {"classifier.6.weight": [1], "classifier.0.weight": torch.zeros(8, 512)},
        {"classifier.6.weight": torch.tensor(1.0), "classifier.0.weight": torch.zeros(8, 512)},
        {"classifier.6.weight": torch.zeros(3, 8), "classifier.0.weight": torch.zeros(8)},
        {"classifier.6.weight": torch.zeros(3, 8), "classifier.0.weight": torch.zeros(8, 100)},
    ],
)
def test_what_is_nearly_a_net_of_torchvision(tmp_path, state):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth is not a state dict of torchvision's"):
        open_net(str(tmp_path / "x.pth"))


def test_no_server_is_named(tmp_path, monkeypatch):
    """MLflow would make a database in the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow_utils, "_tracking_uri", None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"runs:/abc .*set MLFLOW_TRACKING_URI"):
        open_net("runs:/abc")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_server(monkeypatch):
    """Patience of no time, and no server at the address."""
    for name in ("FIRST_CONTACT", "UNDERWAY"):
        monkeypatch.setattr(opening, name, replace(getattr(opening, name), seconds=0.0))
    monkeypatch.setattr(mlflow_utils, "_tracking_uri", None)  # that of an earlier test precedes the variable
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(("underway", "kind"), [(False, UserError), (True, Failure)])
def test_a_server_that_is_away_is_a_mistake_only_before_anything_starts(no_server, underway, kind):
    with pytest.raises(kind, match=r"--model\.start-from runs:/abc cannot be read from http://127"):
        open_net("runs:/abc", "--model.start-from", underway=underway)


@pytest.mark.parametrize(("underway", "patience"), [(False, "FIRST_CONTACT"), (True, "UNDERWAY")])
def test_a_server_that_is_away_is_asked_again(no_server, monkeypatch, capsys, underway, patience):
    monkeypatch.setattr(opening, patience, replace(getattr(opening, patience), seconds=600.0))
    asked, download = [], opening._download

    def back_at_second(reference, described):
        asked.append(reference)
        if len(asked) == 1:
            return download(reference, described)
        raise UserError("the server is back")

    monkeypatch.setattr(opening, "_download", back_at_second)
    with pytest.raises(UserError, match="the server is back"):
        open_net("runs:/abc", underway=underway)
    assert "waiting up to 600 s" in capsys.readouterr().err


@pytest.mark.parametrize("reference", ["nowhere.pth", "nowhere"])
def test_the_flag_is_named(tmp_path, reference):
    with pytest.raises(UserError, match=rf"--model\.start-from .*{reference}"):
        open_net(str(tmp_path / reference), "--model.start-from")


def test_predictions_are_printed_and_drawn(vgg11, tmp_path, capsys, monkeypatch):
    theirs, file = vgg11
    photo = picture(256, 256, seed=4)
    photo.save(tmp_path / "photo.png")
    drawn = tmp_path / "out" / "answers.png"
    flags = ["--net", file, "--protocol", "single-crop", "--picture", drawn]
    code, out, err = entry_point.call(predict.main, monkeypatch, capsys, tmp_path / "photo.png", *flags)
    assert code == 0, err
    crop = torchvision.transforms.functional.to_tensor(photo.crop((16, 16, 240, 240)))
    standardised = torchvision.transforms.functional.normalize(crop, TORCHVISION_MEAN, TORCHVISION_STD)
    with torch.no_grad():
        share_K = theirs(standardised[None])[0].softmax(0)
    best = share_K.topk(5).indices.tolist()
    lines = [line for line in out.splitlines() if "class " in line and "%" in line]
    assert [int(line.split("class ")[1].split()[0]) for line in lines] == best
    assert f"{share_K[best[0]]:.1%}" in lines[0]
    with Image.open(drawn) as image:
        colours = image.convert("RGB").getcolors(2**24)
    assert colours is not None
    assert len(colours) > 1000, "the photo is not in the picture"


def broken_png(file):
    """An image whose header is sound: PIL raises a SyntaxError only when it reads the pixels."""
    picture(256, 256, seed=4).save(file)
    data = bytearray(file.read_bytes())
    place = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[place : place + 4] = b"\0\0\0\0"
    file.write_bytes(data)


@pytest.mark.parametrize("kind", ["text", "broken"])
def test_a_file_that_is_no_image_is_named(vgg11, tmp_path, capsys, monkeypatch, kind):
    file = tmp_path / "notes.png"
    if kind == "text":
        file.write_text("no image")
    else:
        broken_png(file)
    code, _, err = entry_point.call(predict.main, monkeypatch, capsys, file, "--net", vgg11[1])
    assert code == 2
    assert "notes.png cannot be read as an image" in err.replace("\n", "")
