"""ILSVRC-2012 as distributed: every fault of its files is named, and no class is lost on the way."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from cli.errors import UserError
from pipelines.pack import main
from pipelines.packing.decode import Decoded, decode
from pipelines.sources.recognise import open_source
from tests.pipelines.test_sources import ILSVRC, ILSVRC_ROWS, ilsvrc, lay, rows, tar

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
NOISE = tar({"kit/x.xml": np.random.default_rng(0).bytes(9000)}, "w:gz")
TRAIN = {f"{w}.tar": tar({f"{w}_{i}.JPEG": b"x" for i in (2, 1)}) for w in ("n20", "n10")}


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """The files of a sound set, by name."""
    folder = ilsvrc(tmp_path_factory.mktemp("kit"), kit="")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


FAULTS = {
    "devkit of garbage": ({"ILSVRC2012_devkit_t12.tar.gz": b"junk" * 99}, r"devkit_t12\.tar\.gz is corrupt"),
    "devkit cut": ({"ILSVRC2012_devkit_t12.tar.gz": NOISE[:4000]}, r"devkit_t12\.tar\.gz is corrupt"),
    "boxes of garbage": ({"ILSVRC2012_bbox_val_v3.tgz": b"junk" * 99}, r"bbox_val_v3\.tgz is corrupt"),
    "boxes cut": ({"ILSVRC2012_bbox_val_v3.tgz": NOISE[:4000]}, r"bbox_val_v3\.tgz is corrupt"),
    "meta of garbage": ({"meta.mat": b"junk" * 400}, r"meta\.mat of .* is corrupt"),
    "meta empty": ({"meta.mat": b""}, r"meta\.mat of .* is corrupt"),
    "truth no number": ({TRUTH: b"1\nx\n2\n"}, rf"{TRUTH} of .* one class number a line"),
    "truth too short": ({TRUTH: b"1\n2\n"}, f"3 images, {TRUTH} 2 lines"),
    "class unknown": ({TRUTH: b"1\n7\n2\n"}, "names class 7, which the list of synsets"),
    "class without training": ({TRUTH: b"1\n3\n2\n"}, r"00002\.JPEG .* class n99, which ILSVRC2012_img_train"),
    "class empty": ({"ILSVRC2012_img_train.tar": tar(TRAIN | {"n10.tar": tar({})})}, "class n10 is empty"),
    "class of garbage": ({"ILSVRC2012_img_train.tar": tar(TRAIN | {"n10.tar": b"j" * 3000})}, "is corrupt"),
    "val cut": ({"ILSVRC2012_img_val.tar": tar({"a.JPEG": b"v" * 3000})[:2000]}, "is corrupt"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_with_code_2_and_a_line_that_names_it(tmp_path, kit, monkeypatch, capsys, name):
    changes, message = FAULTS[name]
    lay(tmp_path / "source", kit | changes)
    with pytest.raises(UserError, match=message) as raised:
        open_source(str(tmp_path / "source"))
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(sys, "argv", ["pack", str(tmp_path / "source"), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_a_list_of_synsets_in_place_of_meta(tmp_path, separator):
    listed = f"n20{separator}twenty, vingt\nn10{separator}ten\n".encode()
    source = open_source(str(lay(tmp_path, ILSVRC | {TRUTH: b"2\n1\n2\n", "synsets.txt": listed})))
    assert rows(source) == ILSVRC_ROWS
    assert source.class_names == {"n10": "ten", "n20": "twenty, vingt"}


def test_a_list_of_synsets_without_names(tmp_path):
    source = open_source(str(lay(tmp_path, ILSVRC | {TRUTH: b"2\n1\n2\n", "synsets.txt": b"n20\nn10\n"})))
    assert source.class_names == {"n10": "n10", "n20": "n20"}


def picture(form, **options):
    file = io.BytesIO()
    first, second = (Image.radial_gradient("L").resize((40, side)).convert("RGB") for side in (30, 20))
    if form == "MPO":
        options |= {"save_all": True, "append_images": [second]}
    first.save(file, form, **options)
    return file.getvalue()


def test_the_jpeg_of_a_phone_is_kept():
    data = picture("MPO")
    assert Image.open(io.BytesIO(data)).format == "MPO"
    found = decode(data)
    assert isinstance(found, Decoded)
    assert (found.data, found.height, found.width) == (data, 30, 40)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_no_jpeg_is_written_anew_for_an_orientation_that_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = picture("JPEG", exif=exif)
    found = decode(data)
    assert isinstance(found, Decoded)
    assert found.data == data
