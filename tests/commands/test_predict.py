"""vgg.predict on files and folders: what is printed, written and drawn; what is refused before the net runs."""

import csv
import os
from functools import partial

import numpy as np
import pytest
from PIL import Image

from tests import entry_point
from tests.commands.test_evaluate import save_net
from tests.photos import picture
from vgg import predict
from vgg.testing.prediction import named_images, predicted
from vgg.testing.protocols import Evaluation
from vgg.weights.open_net import open_net

IMAGES = 14


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    return save_net(tmp_path_factory.mktemp("run"), digits, seed=3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two shapes, in folders of folders, and a text that is no image's business."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(IMAGES):
        file = folder / f"part{i % 3}" / f"[bold]{i:02d}.png"
        file.parent.mkdir(exist_ok=True)
        picture(*((80, 70), (64, 90))[i % 2], seed=i).save(file)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    return partial(entry_point.call, predict.main, monkeypatch, capsys)


def test_a_folder_is_predicted_image_by_image(run, photos, call, tmp_path):
    code, out, err = call(
        photos, "--net", run, "--csv", tmp_path / "best.csv", "--picture", tmp_path / "best.png"
    )
    assert code == 0, err
    files = sorted(photos.rglob("*.png"))
    with (tmp_path / "best.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [str(file) for file in files]
    net = open_net(run)
    assert net.class_names is not None
    for row, file in zip(rows, files, strict=True):
        ((_, alone_K),) = predicted(net, named_images([file], "test"), Evaluation("dense", (64,)))
        assert not isinstance(alone_K, Exception)
        assert row["class_1"] == net.class_names[int(np.argmax(alone_K))]
        assert float(row["posterior_1"]) == pytest.approx(alone_K.max(), abs=1e-5)
        assert f"{file}: {row['class_1']}" in out
    assert f"{IMAGES} images predicted" in out
    assert "predicting: 14 of 14 images" in err
    assert (tmp_path / "best.png").stat().st_size > 10_000


def test_grad_cam_is_drawn_beside_the_images(run, photos, call, tmp_path):
    code, out, err = call(photos, "--net", run, "--picture", "None", "--grad-cam", tmp_path / "heat.png")
    assert code == 0, err
    assert f"drawn: {tmp_path}/heat.png" in out.replace("\n", "")
    with Image.open(tmp_path / "heat.png") as drawn:
        pixels_HWC = np.asarray(drawn.convert("RGB"))
    height, width, _ = pixels_HWC.shape
    assert height * width > 2 * 200**2 * IMAGES
    code, _, err = call(photos, "--net", run, "--grad-cam", tmp_path / "heat.xyz")
    assert (code, err.count("\n")) == (2, 1)
    assert "--grad-cam" in err


def test_names_are_never_markup_or_formulas(photos, digits, tmp_path, call):
    """In the tables, in the picture and in a line of many."""
    names = ["[/red]", "$\\frac{$", "[bold]x[/bold]", ":cat:", "<b>", "$5 or $6", "\\[x]", "{y}", "%s", "z"]
    net = save_net(tmp_path / "run", digits, seed=3, classes=names)
    file = sorted(photos.rglob("*.png"))[0]
    code, out, err = call(file, "--net", net, "--picture", tmp_path / "out.svg")
    assert code == 0, err
    assert str(file) in out.replace("\n", "")
    assert sum(name in out for name in names) >= 5
    assert (tmp_path / "out.svg").stat().st_size > 1000
    code, out, err = call(photos, "--net", net, "--picture", "None")
    assert code == 0, err
    assert f"{file}: " in out


def test_an_image_that_cannot_be_read_is_told_and_passed_over(run, tmp_path, call):
    for name in ("a.png", "c.png"):
        picture(70, 80, seed=1).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no image")
    picture(2, 80, seed=1).save(tmp_path / "d.png")
    code, out, err = call(tmp_path, "--net", run, "--picture", "None")
    assert code == 1
    assert "2 images predicted" in out
    assert err.count("\n") == 1
    assert "2 of 4 images passed over" in err
    assert "b.png cannot be read as an image" in err
    assert "over 32 times the other" in err


def test_what_it_wrote_before_is_no_image_of_the_folder(run, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", ".hidden.png", ".trash/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(70, 80, seed=1).save(tmp_path / name)
    for _ in range(2):
        code, out, err = call(".", "--net", run, "--grad-cam", "heat.png")
        assert code == 0, err
        assert "1 image predicted" in out


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--picture", "./a.png"], "--picture a.png is the image a.png: name another file"),
        (["--csv", "a.png"], "--csv a.png is the image a.png"),
        (["--picture", "x.png", "--grad-cam", "x.png"], "--grad-cam x.png is --picture: name another file"),
    ],
)
def test_nothing_is_written_over_an_image_or_each_other(run, tmp_path, call, monkeypatch, flags, reason):
    monkeypatch.chdir(tmp_path)
    picture(70, 80, seed=1).save("a.png")
    before = (tmp_path / "a.png").read_bytes()
    code, _, err = call("a.png", "--net", run, *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert reason in err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a.png": before}


def test_sixteen_bits_are_seen_as_in_training(run, tmp_path, call):
    """PIL's own conversion clips them to white."""
    pixels_HW = np.asarray(picture(70, 80, "L", seed=1))
    Image.fromarray(pixels_HW).save(tmp_path / "8.png")
    Image.fromarray(pixels_HW.astype(np.uint16) * 257).save(tmp_path / "16.png")
    code, _, err = call(tmp_path, "--net", run, "--picture", "None", "--csv", tmp_path / "best.csv")
    assert code == 0, err
    with (tmp_path / "best.csv").open() as stream:
        one, other = csv.DictReader(stream)
    assert one | {"file": ""} == other | {"file": ""}


def test_names_that_are_no_utf8(run, tmp_path, call):
    picture(70, 80, seed=1).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    code, _, err = call(tmp_path, "--net", run, "--picture", tmp_path / "x.jpg", "--csv", tmp_path / "x.csv")
    assert code == 0, err
    assert "caf\\xe9.png," in (tmp_path / "x.csv").read_text()
    assert (tmp_path / "x.jpg").stat().st_size > 1000


def test_where_no_image_can_be_read_nothing_is_written(run, tmp_path, call):
    (tmp_path / "b.png").write_bytes(b"no image")
    code, _, err = call(tmp_path, "--net", run, "--picture", tmp_path / "out.jpg")
    assert code == 2
    assert "b.png cannot be read as an image" in err
    assert not (tmp_path / "out.jpg").exists()


def test_the_submission_has_the_classes_identifiers(run, photos, call, tmp_path, digits):
    """Which the nets of earlier versions do not know."""
    flags = ["--picture", "None", "--submission", tmp_path / "out.txt"]
    code, _, err = call(photos, "--net", run, *flags)
    assert code == 2
    assert "--submission: the net does not say its classes' identifiers" in err
    newer = save_net(tmp_path / "run", digits, seed=3, class_ids=[f"n{k:08d}" for k in range(10)])
    code, _, err = call(photos, "--net", newer, *flags)
    assert code == 0, err
    net = open_net(newer)
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert len(lines) == IMAGES
    for line, file in zip(lines, sorted(photos.rglob("*.png")), strict=True):
        ((_, alone_K),) = predicted(net, named_images([file], "test"), Evaluation("dense", (64,)))
        assert not isinstance(alone_K, Exception)
        assert line == f"{file.name} n{int(np.argmax(alone_K)):08d}"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--picture", "out.xyz"], "--picture out.xyz must end in one of"),
        (["--picture", "out"], "--picture out must end in one of"),
        (["--picture", "/proc/out.png"], "--picture /proc/out.png cannot be written"),
        (["--picture", "file/out.png"], "--picture file/out.png cannot be written"),
        (["--picture", "folder.png"], "--picture folder.png is a folder"),
        (["--csv", "folder.png"], "--csv folder.png is a folder"),
        (["--csv", "pipe"], "--csv pipe is no plain file"),
        (["--submission", "/proc/x/y"], "--submission /proc/x/y cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_net_is_opened(call, tmp_path, monkeypatch, flags, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe")
    picture(70, 80).save(tmp_path / "a.png")
    code, _, err = call("a.png", "--net", "/nowhere", *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert reason in err


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([], "IMAGES is missing"),
        (["/nowhere.jpg"], "no file or folder /nowhere.jpg"),
        (["."], "no image below the folder ."),
    ],
)
def test_images_that_are_not_there_are_reported(run, call, tmp_path, monkeypatch, images, reason):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*images, "--net", run, "--picture", "None")
    assert (code, err.count("\n")) == (2, 1)
    assert reason in err
