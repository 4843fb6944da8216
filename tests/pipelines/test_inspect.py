"""Inspection: the tables hold what was packed, the montage shows it, mistakes are named."""

import io
import resource
import signal
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import pipelines.inspect
from cli.errors import UserError
from pipelines.inspect import InspectOptions, inspect, main
from pipelines.inspection.montage import CAPTION, MARGIN
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from tests.pipelines.test_sources import lay

COLOURS = {"red": (254, 0, 0), "green": (0, 255, 1), "blue": (0, 0, 254)}


def flat(colour, size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def packed(tmp_path):
    """Classes of one colour each: 4 training images a class, 60 of blue in validation, one file skipped."""
    files = {f"train/{name}/{i}.png": flat(c) for name, c in COLOURS.items() for i in range(4)}
    files |= {f"val/blue/{i}.png": flat(COLOURS["blue"], (50, 25 + i)) for i in range(60)}
    source = lay(tmp_path / "source", files | {"train/red/[bold].png": b"broken"})
    pack(PackOptions(str(source), tmp_path / "out", workers=1))
    return tmp_path / "out"


def shown(options):
    text = io.StringIO()
    file = inspect(options, Console(file=text, width=200))
    return file, text.getvalue()


def cells(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {start} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_tables(packed):
    _, text = shown(InspectOptions(packed))
    assert cells(text, "train")[1:5] == ["12", "3", "4", "1"]
    assert cells(text, "train")[6:] == ["30", "40"]
    assert cells(text, "val")[1:5] == ["60", "1", "0 to 60", "1"]
    assert cells(text, "val")[6:] == ["25 to 84", "50"]
    assert cells(text, "0") == ["0", "blue", "blue", "4", "60"]
    assert cells(text, "2") == ["2", "red", "red", "4", "0"]
    colours_KC = np.array(list(COLOURS.values()))
    wanted = ", ".join(f"{value:.1f}" for value in colours_KC.mean(0))
    assert f"mean RGB {wanted}, standard deviation" in text
    assert ", ".join(f"{value:.1f}" for value in colours_KC.std(0)) in text
    assert "train train/red/[bold].png: " in text


def test_the_montage_shows_every_class(packed):
    """Two images of each of three classes, in the order of the labels: blue, green, red."""
    file, _ = shown(InspectOptions(packed, columns=2, rows=3, tile=40))
    assert file == packed.parent / "out-montage.png"
    sheet = np.asarray(Image.open(file))
    assert sheet.shape == (3 * (40 + CAPTION + MARGIN) + MARGIN, 2 * (40 + MARGIN) + MARGIN, 3)
    for row, name in enumerate(sorted(COLOURS)):
        for column in range(2):
            top, left = MARGIN + row * (40 + CAPTION + MARGIN), MARGIN + column * (40 + MARGIN)
            tile = sheet[top : top + 40, left : left + 40]
            assert (tile[20, 20] == COLOURS[name]).all()
            assert (tile[1, 20] == 128).all()  # 40×30 within 40×40: the whole image, on grey
            caption = sheet[top + 40 : top + 40 + CAPTION, left : left + 40]
            assert caption.min() < 100
            assert caption.max() == 255


def test_a_montage_of_fewer_images_than_tiles(packed):
    file, _ = shown(InspectOptions(packed, split="val", columns=25, rows=25, tile=8))
    height, width, _ = np.asarray(Image.open(file)).shape
    assert (height, width) == (3 * (8 + CAPTION + MARGIN) + MARGIN, 25 * (8 + MARGIN) + MARGIN)


def test_a_named_montage(packed, tmp_path):
    file, _ = shown(InspectOptions(packed, montage=tmp_path / "picture.png"))
    assert file == tmp_path / "picture.png"
    assert Image.open(file).format == "PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "picture.png", "source"]


def flip(packed):
    file = packed / "train-00000.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "flags", "named"),
    [
        (flip, ["--verify"], "train-00000.arrow is damaged"),
        (lambda packed: (packed / "manifest.json").unlink(), [], "not a packed data set"),
        (lambda packed: None, ["--split", "tests"], "--split tests"),
        (lambda packed: None, ["--montage", "nowhere/at/all.png"], "cannot be written"),
        (lambda packed: None, ["--rows", "0"], "--rows"),
    ],
)
def test_mistakes_end_with_code_2(packed, monkeypatch, capsys, damage, flags, named):
    damage(packed)
    before = sorted(packed.parent.rglob("*"))
    monkeypatch.chdir(packed)
    monkeypatch.setattr(sys, "argv", ["inspect", str(packed), *flags])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "error: " in told
    assert named in told
    assert sorted(packed.parent.rglob("*")) == before


def test_sound_shards_pass(packed):
    assert "every shard has the digest" in shown(InspectOptions(packed, verify=True))[1]


def test_a_bug_is_not_taken_for_a_mistake(packed, monkeypatch):
    def with_a_bug(*_):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(pipelines.inspect, "montage", with_a_bug)
    monkeypatch.setattr(sys, "argv", ["inspect", str(packed)])
    with pytest.raises(ValueError, match="broadcast"):
        main()


def test_a_montage_that_cannot_be_written_leaves_the_old_one(packed, tmp_path, monkeypatch):
    """A limit on the size of files stands for a full disk."""
    old = tmp_path / "picture.png"
    old.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"--montage .* cannot be written"):
            inspect(InspectOptions(packed, montage=old), Console(file=io.StringIO()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert old.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "picture.png", "source"]


def test_an_image_that_cannot_be_decoded_is_named(packed):
    """One whose bytes changed, in a file of the size that the manifest states."""
    file = packed / "train-00000.arrow"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"\x89PNG", b"\x00PNG"))
    with pytest.raises(UserError, match=r"image train/blue/0\.png cannot be decoded"):
        inspect(InspectOptions(packed), Console(file=io.StringIO()))
