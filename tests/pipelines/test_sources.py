"""Sources: each layout yields the files it holds with their labels; every mistake is named."""

import io
import os
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from cli.errors import UserError
from pipelines.shards.boxes import Box
from pipelines.sources.recognise import open_source
from pipelines.sources.source import NO_CLASS


def lay(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def tar(files, mode="w"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def rows(source):
    return [(file.split, file.key, file.label, file.content.read()) for file in source.files]


SPLITS = {f"{s}/{c}/{i}.jpg": f"{s}{c}{i}".encode() for s in ("train", "val") for c in "ab" for i in (1, 2)}

TINY = {
    "wnids.txt": b"n2\nn1\n",
    "words.txt": b"n1\tone, uno\nn2\ttwo\nn3\tthree\n",
    "val/val_annotations.txt": b"val_0.JPEG\tn2\t0\t1\t2\t3\nval_1.JPEG\tn1\t4\t5\t6\t7\n",
    "val/images/val_0.JPEG": b"v0",
    "val/images/val_1.JPEG": b"v1",
    "test/images/test_0.JPEG": b"no label",
}
for wnid in ("n1", "n2"):
    TINY[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t1\t2\t3\t4\n{wnid}_1.JPEG\t5\t6\t7\t8\n".encode()
    TINY |= {f"train/{wnid}/images/{wnid}_{i}.JPEG": f"{wnid}-{i}".encode() for i in range(2)}

TINY_ROWS = [
    ("train", "train/n1/images/n1_0.JPEG", "n1", b"n1-0"),
    ("train", "train/n1/images/n1_1.JPEG", "n1", b"n1-1"),
    ("train", "train/n2/images/n2_0.JPEG", "n2", b"n2-0"),
    ("train", "train/n2/images/n2_1.JPEG", "n2", b"n2-1"),
    ("val", "val/images/val_0.JPEG", "n2", b"v0"),
    ("val", "val/images/val_1.JPEG", "n1", b"v1"),
    ("test", "test/images/test_0.JPEG", NO_CLASS, b"no label"),
]


def test_split_folders(tmp_path):
    source = open_source(str(lay(tmp_path, SPLITS)))
    assert source.classes == ["a", "b"]
    assert source.counts == {"train": 4, "val": 4}
    assert {key: data for _, key, _, data in rows(source)} == SPLITS
    assert all(key.startswith(f"{split}/{label}/") for split, key, label, _ in rows(source))


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_other_names_of_the_validation_folder(tmp_path, name):
    lay(tmp_path, {key.replace("val/", f"{name}/"): data for key, data in SPLITS.items()})
    assert open_source(str(tmp_path)).counts == {"train": 4, "val": 4}


def test_further_splits_are_kept(tmp_path):
    """CODaN: train, val, and tests by day and by night."""
    lay(tmp_path, SPLITS | {"test_day/a/1.jpg": b"d", "test_night/b/1.jpg": b"n"})
    source = open_source(str(tmp_path))
    assert source.counts == {"train": 4, "val": 4, "test_day": 1, "test_night": 1}
    assert ("test_night", "test_night/b/1.jpg", "b", b"n") in rows(source)


def splits_of(source):
    return {file.key: file.split for file in source.files}


def test_held_out_images_depend_on_the_names_of_their_class_alone(tmp_path):
    files = {f"{label}/{i}.jpg": b"x" for label in "ab" for i in range(200)}
    first = splits_of(open_source(str(lay(tmp_path, files))))
    assert splits_of(open_source(str(tmp_path))) == first
    lay(tmp_path, {f"a/more-{i}.jpg": b"x" for i in range(50)} | {f"c/{i}.jpg": b"x" for i in range(9)})
    second = splits_of(open_source(str(tmp_path)))
    assert all(second[key] == split for key, split in first.items() if key[0] == "b")
    assert Counter(key[0] for key, split in second.items() if split == "val") == {"a": 25, "b": 20, "c": 1}


@pytest.mark.parametrize(
    ("images", "share", "expected"),
    [(1, 0.5, 0), (2, 0.1, 1), (2, 0.9, 1), (3, 0.9, 2), (9, 0.1, 1), (15, 0.1, 2), (40, 0.25, 10)],
)
def test_each_class_gives_its_share(tmp_path, images, share, expected):
    """At least one image and never all of them, as long as there are two."""
    files = {f"a/{i}.png": b"x" for i in range(images)} | {f"b/{i}.png": b"x" for i in range(20)}
    lay(tmp_path, files | {"a/thumbs.db": b"no image", "a/notes.txt": b"none either"})
    source = open_source(str(tmp_path), val_share=share)
    held_out = [key for key, split in splits_of(source).items() if split == "val"]
    assert len([key for key in held_out if key[0] == "a"]) == expected
    assert all(key.endswith(".png") for key in held_out)
    assert f"{share:.0%} of each class" in source.split_note
    assert ("of one image, and so none held out: a (" in source.split_note) == (not expected)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_out_of_range(tmp_path, share):
    lay(tmp_path, {"a/1.jpg": b"x"})
    with pytest.raises(UserError, match="--val-share"):
        open_source(str(tmp_path), val_share=share)


@pytest.mark.parametrize(
    ("classes", "expected"), [((), ["a", "b"]), (("1",), ["a"]), (("b",), ["b"]), (("b", "a"), ["a", "b"])]
)
def test_a_subset_of_the_classes(tmp_path, classes, expected):
    source = open_source(str(lay(tmp_path, SPLITS)), classes=classes)
    assert source.classes == expected
    assert source.counts == {"train": 2 * len(expected), "val": 2 * len(expected)}
    assert {label for _, _, label, _ in rows(source)} == set(expected)


@pytest.mark.parametrize("classes", [("0",), ("3",), ("c",), ("a", "c")])
def test_classes_that_are_not_there(tmp_path, classes):
    with pytest.raises(UserError, match=f"--classes {classes[-1]}"):
        open_source(str(lay(tmp_path, SPLITS)), classes=classes)


@pytest.mark.parametrize("form", ["folder", "w:xz", "w:gz", "w", "zip"])
@pytest.mark.parametrize("top", ["tiny-imagenet-200/", "./x/", ""])
def test_tiny_imagenet(tmp_path, form, top):
    files = {top + name: data for name, data in TINY.items()}
    if form == "folder":
        path = lay(tmp_path, TINY)
    elif form == "zip":
        path = tmp_path / "tiny.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        path = tmp_path / f"tiny.tar{form[1:].replace(':', '.')}"
        path.write_bytes(tar(files, form))
    source = open_source(str(path))
    assert rows(source) == TINY_ROWS
    assert source.classes == ["n1", "n2"]
    assert source.class_names == {"n1": "one, uno", "n2": "two"}
    assert source.counts == {"train": 4, "val": 2, "test": 1}
    labelled = source.files[:6]
    boxes = [(1, 2, 3, 4), (5, 6, 7, 8), (1, 2, 3, 4), (5, 6, 7, 8), (0, 1, 2, 3), (4, 5, 6, 7)]
    wnids = [file.label for file in labelled]
    assert [file.boxes for file in labelled] == [(Box(*b, w),) for b, w in zip(boxes, wnids, strict=True)]


def test_a_class_of_tiny_imagenet(tmp_path):
    source = open_source(str(lay(tmp_path, TINY)), classes=["n2"])
    assert rows(source) == [row for row in TINY_ROWS if row[2] == "n2"]


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("words.txt", None, "no words.txt"),
        ("words.txt", b"n1\n", "words.txt has fewer than 2 columns"),
        ("train/n1/n1_boxes.txt", None, "no train/n1/n1_boxes.txt"),
        ("train/n1/n1_boxes.txt", b"", "class n1 is empty"),
        ("train/n1/n1_boxes.txt", b"n1_0.JPEG\t1\t2\tx\t4\n", "four numbers"),
        ("val/val_annotations.txt", b"val_0.JPEG\n", "fewer than 6 columns"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn9\t0\t1\t2\t3\n", "class n9, which wnids.txt"),
        ("train/n2/images/n2_1.JPEG", None, "lacks 1 images it lists, e.g. train/n2/images/n2_1.JPEG"),
        ("wnids.txt", b"", "no classes"),
    ],
)
def test_tiny_imagenet_with_a_fault(tmp_path, file, data, message):
    lay(tmp_path, {**TINY, file: data or b""})
    if data is None:
        (tmp_path / file).unlink()
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path))


@pytest.mark.parametrize("form", ["w:xz", "w:gz", "w:bz2"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_cut_archive(tmp_path, form, share):
    path = tmp_path / "tiny.tar.xz"
    whole = tar({f"t/{name}": data + np.random.default_rng(0).bytes(4000) for name, data in TINY.items()}, form)
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"tiny\.tar\.xz is corrupt or cut off"):
        open_source(str(path))


def test_a_tar_cut_between_two_members_is_not_taken_for_whole(tmp_path):
    path = tmp_path / "tiny.tar"
    path.write_bytes(tar({f"t/{name}": data for name, data in TINY.items()}))
    with tarfile.open(path) as archive:
        start = archive.getmember("t/train/n2/images/n2_1.JPEG").offset
    path.write_bytes(path.read_bytes()[:start])
    with pytest.raises(UserError, match="lacks 1 images it lists"):
        open_source(str(path))


@pytest.mark.parametrize("name", ["tiny.tar.xz", "tiny.zip", "tiny.tar"])
def test_an_archive_of_garbage(tmp_path, name):
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(UserError, match=f"{name} is corrupt or cut off"):
        open_source(str(tmp_path / name))


def test_a_flipped_byte_of_an_archive(tmp_path):
    data = bytearray(tar({f"t/{name}": data for name, data in TINY.items()}, "w:xz"))
    data[len(data) // 2] ^= 0x10
    (tmp_path / "tiny.tar.xz").write_bytes(data)
    with pytest.raises(UserError, match="corrupt or cut off"):
        open_source(str(tmp_path / "tiny.tar.xz"))


def test_names_that_lead_out_of_an_archive_never_reach_the_disk(tmp_path):
    evil = {"../evil": b"x", str(tmp_path / "absolute"): b"x", "t/../../evil2": b"x"}
    path = tmp_path / "in" / "tiny.tar"
    path.parent.mkdir()
    path.write_bytes(tar({**{f"t/{name}": data for name, data in TINY.items()}, **evil}))
    before = sorted(tmp_path.rglob("*"))
    source = open_source(str(path))
    assert rows(source) == TINY_ROWS
    assert sorted(tmp_path.rglob("*")) == before
    skipped = {(e.split, e.key, e.reason) for e in source.skipped}
    assert skipped == {("archive", name, "its name leads out of the archive") for name in evil}


@pytest.mark.parametrize("form", ["w", "w:xz"])
def test_files_of_an_archive_that_are_not_what_they_seem(tmp_path, form):
    """A name twice, of which the last is packed; a link; an image that no list names; an unknown class."""
    path = tmp_path / f"tiny.tar{form[1:].replace(':', '.')}"
    with tarfile.open(path, form) as archive:
        more = {
            "train/n1/images/extra.JPEG": b"x",
            "val/images/extra.JPEG": b"x",
            "train/n7/images/y.JPEG": b"y",
        }
        name = "train/n1/images/n1_0.JPEG"
        for key, data in [(name, b"older"), *TINY.items(), *more.items()]:
            member = tarfile.TarInfo(key)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("train/n1/images/link.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    source = open_source(str(path))
    assert rows(source) == TINY_ROWS
    assert {(entry.key, entry.reason) for entry in source.skipped} == {
        (name, "another file of the same name comes later"),
        ("train/n1/images/link.JPEG", "a link or a special file, not an image"),
        ("train/n1/images/extra.JPEG", "no line of the class's n1_boxes.txt names it"),
        ("train/n7/images/y.JPEG", "no line of the class's n7_boxes.txt names it"),
        ("val/images/extra.JPEG", "no line of val/val_annotations.txt names it"),
    }


def many(lines):
    """Tiny ImageNet with 300 validation images and these annotations after them."""
    named = b"".join(b"many_%d.JPEG\tn1\t0\t1\t2\t3\n" % i for i in range(300))
    files = {f"val/images/many_{i}.JPEG": b"m%d" % i for i in range(300)}
    return TINY | files | {"val/val_annotations.txt": TINY["val/val_annotations.txt"] + named + lines}


@pytest.mark.parametrize(
    ("line", "key", "reason"),
    [
        (b"val_9.JPEG\tn1\t0\t1\t2\t3\n", "val_9.JPEG", "it is listed but not there"),
        (b"val_1.JPEG\tn9\t0\t1\t2\t3\n", "val_1.JPEG", "class n9 is not in wnids.txt"),
        (b"val_1.JPEG\tn1\t0\t1\t2\t3\n", "val_1.JPEG", "another file of the same name comes later"),
        (b"val_1.JPEG\tn2\t0\t1\t2\t3\n", "val_1.JPEG", "it is there under several classes, here n2"),
    ],
)
def test_a_label_file_that_disagrees_in_a_line(tmp_path, line, key, reason):
    source = open_source(str(lay(tmp_path, many(line))))
    assert (f"val/images/{key}", reason) in {(entry.key, entry.reason) for entry in source.skipped}
    labels = {file.key: file.label for file in source.files if file.split == "val"}
    assert len(labels) >= 301
    assert set(labels.values()) == {"n1", "n2"}
    conflicting = b"n2" in line
    assert ("val/images/val_1.JPEG" in labels) != conflicting


def test_names_that_are_no_utf8(tmp_path):
    lay(tmp_path, SPLITS)
    for split in ("train", "val"):
        folder = tmp_path / split / os.fsdecode(b"caf\xe9")
        folder.mkdir()
        (folder / os.fsdecode(b"\xff1.jpg")).write_bytes(b"odd")
    source = open_source(str(tmp_path))
    assert source.classes == ["a", "b", "caf\\xe9"]
    odd = [row for row in rows(source) if row[3] == b"odd"]
    assert odd == [(split, f"{split}/caf\\xe9/\\xff1.jpg", "caf\\xe9", b"odd") for split in ("train", "val")]


def test_broken_links_and_special_files_are_told(tmp_path):
    lay(tmp_path, SPLITS)
    (tmp_path / "train" / "a" / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "train" / "b" / "pipe.jpg")
    source = open_source(str(tmp_path))
    assert {(e.split, e.key, e.reason) for e in source.skipped} == {
        ("train", f"train/{key}", "a broken link or a special file") for key in ("a/gone.jpg", "b/pipe.jpg")
    }
    assert {key: data for _, key, _, data in rows(source)} == SPLITS


def test_links_to_folders_are_followed_and_hidden_folders_are_not(tmp_path):
    more = lay(tmp_path / "more", {"summer/1.jpg": b"s1", "winter/1.jpg": b"w1"})
    lay(tmp_path / "data", {f"{label}/{i}.jpg": b"x" for label in "ab" for i in (1, 2)})
    lay(tmp_path / "data", {"a/.ipynb_checkpoints/1-checkpoint.jpg": b"copy", "b/.cache/x/1.jpg": b"copy"})
    (tmp_path / "data" / "a" / "more").symlink_to(more)
    (tmp_path / "data" / "a" / "more-again").symlink_to("../../more")
    (tmp_path / "data" / "c").symlink_to(more / "winter")
    lay(tmp_path / "data", {f"{label}/sub/3.jpg": b"y" for label in "ab"})
    for split in ("train", "val"):
        (tmp_path / "split").mkdir(exist_ok=True)
        (tmp_path / "split" / split).symlink_to(tmp_path / "data")
    source = open_source(str(tmp_path / "split"))
    keys = {file.key.partition("/")[2] for file in source.files}
    assert keys == {
        *(f"{label}/{name}.jpg" for label in "ab" for name in ("1", "2", "sub/3")),
        "a/more/summer/1.jpg",
        "a/more/winter/1.jpg",
        "c/1.jpg",
    }


def test_hidden_folders_make_no_other_layout(tmp_path):
    lay(tmp_path, {f"{label}/{i}.jpg": b"x" for label in "ab" for i in (1, 2)} | {"a/.thumbs/1.jpg": b"t"})
    assert {file.key for file in open_source(str(tmp_path)).files} == {
        "a/1.jpg",
        "a/2.jpg",
        "b/1.jpg",
        "b/2.jpg",
    }


def test_a_link_to_a_folder_that_it_lies_in(tmp_path):
    lay(tmp_path, SPLITS)
    (tmp_path / "train" / "a" / "all").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"train/a/all is a link to a folder that it lies in"):
        open_source(str(tmp_path))


def annotation(*edges):
    names = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"<{n}>{edge}</{n}>" for n, edge in zip(names, edges, strict=False) if edge is not None)
    return f"<annotation><object><bndbox>{inner}</bndbox></object></annotation>".encode()


@pytest.mark.parametrize("layout", ["ilsvrc", "folders"])
def test_loose_annotations(tmp_path, layout):
    """Beside the images, as unpacked; one lacks an edge, one has none that is a number, one is no XML."""
    if layout == "ilsvrc":
        ilsvrc(tmp_path)
        names = ["n10_1", "n10_2", "n20_1", "n20_2"]
    else:
        lay(tmp_path, {f"{s}/{c}/{s}{c}{i}.jpg": b"x" for s in ("train", "val") for c in "ab" for i in (1, 2)})
        names = ["traina1", "traina2", "trainb1", "trainb2"]
    faulty = [annotation(1, 2, 3), annotation(1, 2, "nan", 4), b"<annotation>"]
    xml = dict(zip(names, [annotation(1, 2, 3, 4), *faulty], strict=True))
    lay(tmp_path, {f"ILSVRC2012_bbox_train/x/{name}.xml": data for name, data in xml.items()})
    source = open_source(str(tmp_path))
    boxes = {file.key: file.boxes for file in source.files if file.boxes}
    assert list(boxes.values()) == [(Box(1, 2, 3, 4),)]
    assert names[0] in next(iter(boxes))
    assert len(rows(source)) == (7 if layout == "ilsvrc" else 8)
    skipped = {(entry.split, entry.key) for entry in source.skipped}
    assert skipped == {("boxes", f"ILSVRC2012_bbox_train/x/{name}.xml") for name in names[1:]}


ILSVRC = {
    "ILSVRC2012_img_train.tar": tar(
        {f"{w}.tar": tar({f"{w}_{i}.JPEG": f"{w}-{i}".encode() for i in (2, 1)}) for w in ("n20", "n10")}
    ),
    "ILSVRC2012_img_val.tar": tar({f"ILSVRC2012_val_{i:08d}.JPEG": f"v{i}".encode() for i in (3, 1, 2)}),
}


def ilsvrc(folder, kit="ILSVRC2012_devkit_t12/data/"):
    """Class numbers run against the order of the WNIDs; a synset above the leaves is there too."""
    synsets = np.array(
        [(1, "n20", "twenty"), (2, "n10", "ten"), (3, "n99", "an ancestor")],
        dtype=[("ILSVRC2012_ID", int), ("WNID", object), ("words", object)],
    )
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = b"2\n1\n2\n"
    return lay(
        folder,
        ILSVRC | {kit + "meta.mat": meta.getvalue(), kit + "ILSVRC2012_validation_ground_truth.txt": truth},
    )


ILSVRC_ROWS = [
    ("train", "n10_1.JPEG", "n10", b"n10-1"),
    ("train", "n10_2.JPEG", "n10", b"n10-2"),
    ("train", "n20_1.JPEG", "n20", b"n20-1"),
    ("train", "n20_2.JPEG", "n20", b"n20-2"),
    ("val", "ILSVRC2012_val_00000001.JPEG", "n10", b"v1"),
    ("val", "ILSVRC2012_val_00000002.JPEG", "n20", b"v2"),
    ("val", "ILSVRC2012_val_00000003.JPEG", "n10", b"v3"),
]


@pytest.mark.parametrize("kit", ["", "data/", "ILSVRC2012_devkit_t12/data/"])
def test_ilsvrc(tmp_path, kit):
    source = open_source(str(ilsvrc(tmp_path, kit)))
    assert rows(source) == ILSVRC_ROWS
    assert source.classes == ["n10", "n20"]
    assert source.class_names == {"n10": "ten", "n20": "twenty"}
    assert source.counts == {"train": 4, "val": 3}


def test_a_class_of_ilsvrc(tmp_path):
    source = open_source(str(ilsvrc(tmp_path)), classes=["n20"])
    assert rows(source) == [row for row in ILSVRC_ROWS if row[2] == "n20"]


@pytest.mark.parametrize(
    ("size", "noted"),
    [
        ("<size><width>500</width><height>375</height></size>", (375, 500)),
        ("<size><width>0</width><height>0</height><depth>3</depth></size>", (0, 0)),
        ("<size/>", (0, 0)),
        ("", (0, 0)),
        ("<size><width>wide</width><height>375</height></size>", None),
    ],
)
def test_an_annotation_keeps_class_and_size_and_no_part_of_an_object(tmp_path, size, noted):
    """As VOC writes them: a person has the boxes of a head and hands inside its own object."""
    box = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    head = f"<part><name>head</name>{box.format(9)}</part>"
    person = f"<object><name> person </name>{box.format(1)}{head}</object>"
    dog = f"<object><name>dog</name><pose>Left</pose>{box.format(5)}</object><object><name>cat</name></object>"
    lay(
        tmp_path,
        {"a/1.jpg": b"x", "Annotations/1.xml": f"<annotation>{size}{person}{dog}</annotation>".encode()},
    )
    source = open_source(str(tmp_path))
    if noted is None:
        assert source.files[0].boxes == ()
        assert "a size in pixels" in source.skipped[0].reason
    else:
        assert source.files[0].boxes == (Box(1, 2, 30, 40, "person", *noted), Box(5, 2, 30, 40, "dog", *noted))


@pytest.mark.parametrize("top", ["Annotations/", "Annotations/train/"])
def test_images_of_one_name_have_the_annotation_of_their_folder(tmp_path, top):
    """Of cameras' and counted names: the last annotation of a name was taken for all of them."""
    for i, label in enumerate("abc"):
        lay(tmp_path, {f"{split}/{label}/1.jpg": b"x" for split in ("train", "val")})
        if label != "c":
            lay(tmp_path, {f"{top}{label}/1.xml": annotation(i, 2, 30, 40)})
    in_splits = top.endswith("train/")
    if in_splits:
        lay(tmp_path, {"Annotations/val/a/1.xml": annotation(7, 2, 30, 40)})
    found = {file.key: file.boxes for file in open_source(str(tmp_path)).files}
    assert found["train/a/1.jpg"] == (Box(0, 2, 30, 40),)
    assert found["val/a/1.jpg"] == (Box(7 if in_splits else 0, 2, 30, 40),)
    assert found["train/b/1.jpg"] == (Box(1, 2, 30, 40),)
    assert found["train/c/1.jpg"] == ()


def test_boxes_of_ilsvrc(tmp_path):
    def xml(*boxes):
        edges = ("xmin", "ymin", "xmax", "ymax")
        inner = "".join(
            "<object><bndbox>"
            + "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(edges, box, strict=True))
            + "</bndbox></object>"
            for box in boxes
        )
        return f"<annotation>{inner}</annotation>".encode()

    ilsvrc(tmp_path)
    train = {"n10/n10_2.xml": xml((1, 2, 3, 4), (5, 6, 7, 8))}
    (tmp_path / "ILSVRC2012_bbox_train_v2.tar.gz").write_bytes(tar(train, "w:gz"))
    val = {"val/ILSVRC2012_val_00000002.xml": xml((9, 8, 10, 11))}
    (tmp_path / "ILSVRC2012_bbox_val_v3.tgz").write_bytes(tar(val, "w:gz"))
    boxes = {file.key: file.boxes for file in open_source(str(tmp_path)).files if file.boxes}
    assert boxes == {
        "n10_2.JPEG": (Box(1, 2, 3, 4), Box(5, 6, 7, 8)),
        "ILSVRC2012_val_00000002.JPEG": (Box(9, 8, 10, 11),),
    }


@pytest.mark.parametrize("file", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"])
def test_ilsvrc_lacking_or_with_a_broken_archive(tmp_path, file):
    ilsvrc(tmp_path)
    (tmp_path / file).write_bytes(b"garbage" * 1000)
    with pytest.raises(UserError, match="corrupt or cut off"):
        open_source(str(tmp_path))
    (tmp_path / file).unlink()
    with pytest.raises(UserError, match=f"no {file}"):
        open_source(str(tmp_path))


def test_ilsvrc_without_its_ground_truth(tmp_path):
    lay(tmp_path, ILSVRC)
    with pytest.raises(UserError, match=r"no ILSVRC2012_validation_ground_truth\.txt"):
        open_source(str(tmp_path))


def test_digits_are_those_of_scikit_learn():
    """Every digit once, each class in both splits by the same share, images as sharp as JPEG leaves them."""
    data = load_digits()
    files = open_source("digits").files
    seen = sorted(int(file.key.split("/")[-1].removesuffix(".jpg")) for file in files)
    assert seen == list(range(1797))
    train, val = (Counter(file.label for file in files if file.split == split) for split in ("train", "val"))
    for label in map(str, range(10)):
        assert val[label] == pytest.approx((train[label] + val[label]) / 5, abs=1)
    for file in files[::97]:
        index = int(file.key.split("/")[-1].removesuffix(".jpg"))
        assert file.label == str(data.target[index])
        image = Image.open(io.BytesIO(file.content.read()))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
        small = np.asarray(image.resize((8, 8), Image.Resampling.BOX).convert("L")) * (16 / 255)
        assert np.corrcoef(small.ravel(), data.images[index].ravel())[0, 1] > 0.95
    assert [file.content.read() for file in files] == [
        file.content.read() for file in open_source("digits").files
    ]


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"no file or folder .*nowhere"):
        open_source(str(tmp_path / "nowhere"))


def test_a_single_file_that_is_no_archive(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="only archives"):
        open_source(str(tmp_path / "a.jpg"))


def test_images_without_folders_of_their_classes_are_counted(tmp_path):
    lay(tmp_path, {"cat.jpg": b"x", "dog.PNG": b"x", "notes.txt": b"x"})
    with pytest.raises(UserError, match="; 2 images lie in it without a folder of their class"):
        open_source(str(tmp_path))


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no layout that is known"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("empty", ["train/c", "val/b2/../a2"])
def test_an_empty_class_of_split_folders(tmp_path, empty):
    lay(tmp_path, SPLITS)
    (tmp_path / empty).resolve().mkdir(parents=True)
    with pytest.raises(UserError, match=r"class folder .* is empty"):
        open_source(str(tmp_path))


def test_an_empty_class(tmp_path):
    lay(tmp_path, {"a/1.jpg": b"x"})
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"class folder .*b is empty"):
        open_source(str(tmp_path))


def test_a_class_that_train_does_not_have(tmp_path):
    lay(tmp_path, SPLITS | {"val/c/1.jpg": b"x"})
    with pytest.raises(UserError, match="val/c is a class that train does not have"):
        open_source(str(tmp_path))


def test_a_missing_split(tmp_path):
    lay(tmp_path / "1", {key: data for key, data in SPLITS.items() if key.startswith("train")})
    with pytest.raises(UserError, match="no validation split"):
        open_source(str(tmp_path / "1"))
    lay(tmp_path / "2", {key: data for key, data in SPLITS.items() if key.startswith("val")})
    with pytest.raises(UserError, match="no train"):
        open_source(str(tmp_path / "2"))


@pytest.mark.parametrize(
    ("files", "both"),
    [
        (TINY | SPLITS, ("Tiny ImageNet", "split folders")),
        (TINY | {"cats/1.jpg": b"x"}, ("Tiny ImageNet", "class folders")),
        (ILSVRC | SPLITS, ("ILSVRC-2012", "split folders")),
        (ILSVRC | TINY, ("ILSVRC-2012", "Tiny ImageNet")),
        (SPLITS | {"cats/1.jpg": b"x"}, ("split folders", "class folders")),
    ],
)
def test_two_layouts_at_once_are_both_named(tmp_path, files, both):
    with pytest.raises(UserError, match=f"two layouts at once, {both[0]}.* and {both[1]}"):
        open_source(str(lay(tmp_path, files)))
