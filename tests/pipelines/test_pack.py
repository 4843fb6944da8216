"""Packing: statistics equal NumPy's, odd files are read, bad ones skipped, nothing is half-written."""

import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from filelock import FileLock
from nvidia.dali import fn, pipeline_def, types
from PIL import Image, ImageOps

import pipelines.pack
import pipelines.packing.proof
from cli.errors import UserError
from pipelines.pack import main, pack
from pipelines.packing.decode import decode
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.verification import verify
from tests.pipelines.test_sources import lay

ORIENTATION = 0x0112  # EXIF tag


def picture(seed, height=23, width=31):
    """Smooth colours, which survive JPEG, with a corner that tells every rotation apart."""
    ramp_HW3 = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    image = Image.fromarray(ramp_HW3).resize((width, height), Image.Resampling.BICUBIC)
    image.paste((255, 0, 0), (0, 0, width // 3, height // 3))
    return image


def encoded(image, form="JPEG", orientation=None, **options):
    file, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    image.save(file, form, **options)
    return file.getvalue()


def folder(root, train=6, val=2, **changes):
    files = {}
    for split, count in (("train", train), ("val", val)):
        for label in "ab":
            for i in range(count):
                seed = 1000 * (split == "val") + 100 * (label == "b") + i
                files[f"{split}/{label}/{i}.jpg"] = encoded(picture(seed, 20 + i % 7, 30 + 2 * (i % 5)))
    return lay(root, files | changes)


def contents(root):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in root.iterdir()}


def names(root):
    return sorted(file.name for file in root.iterdir())


def run(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.pack", *map(str, arguments)],
        cwd=Path(pipelines.pack.__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_what_is_packed_is_what_was_there(tmp_path):
    source = folder(tmp_path / "source")
    manifest = pack(PackOptions(str(source), tmp_path / "out", workers=1))
    assert read_manifest(tmp_path / "out") == manifest
    verify(tmp_path / "out", manifest)
    for split, count in (("train", 12), ("val", 4)):
        shards = Shards(tmp_path / "out", manifest, split)
        assert len(shards) == count
        for i in range(count):
            data = (source / shards.key(i)).read_bytes()
            assert shards.encoded(i).tobytes() == data
            size = Image.open(io.BytesIO(data)).size
            assert (shards.widths_N[i], shards.heights_N[i]) == size
            assert shards.key(i).split("/")[:2] == [split, manifest.classes[shards.labels_N[i]]]


def test_whatever_a_split_and_the_folder_are_called(tmp_path):
    splits = {"test set": "test set", "nächtens": "nächtens", "-x": "-x", "test_set": "test_set"}
    splits |= {os.fsdecode(b"caf\xe9"): "caf\\xe9", "y" * 250: "y" * 250}
    source = folder(tmp_path / "ÿ, and more")
    for number, name in enumerate(splits):
        lay(source, {f"{name}/a/1.jpg": encoded(picture(number))})
    manifest = pack(PackOptions(str(source), tmp_path / "out", workers=1))
    assert read_manifest(tmp_path / "out") == manifest
    assert set(manifest.splits) == {"train", "val", *splits.values()}
    for name, told in splits.items():
        shards = Shards(tmp_path / "out", manifest, told)
        data = (source / name / "a" / "1.jpg").read_bytes()
        assert [shards.encoded(i).tobytes() for i in range(len(shards))] == [data]


def test_mean_and_covariance_are_those_of_all_training_pixels(tmp_path):
    """Images of several sizes, so that a mean of means would differ; none of the validation set."""
    source = folder(tmp_path / "source")
    manifest = pack(PackOptions(str(source), tmp_path / "out", workers=1))
    pixels_NC = np.concatenate(
        [
            np.asarray(Image.open(file).convert("RGB"), np.float64).reshape(-1, 3)
            for file in (source / "train").rglob("*.jpg")
        ]
    )
    np.testing.assert_allclose(manifest.mean_rgb, pixels_NC.mean(0), rtol=1e-12)
    np.testing.assert_allclose(manifest.covariance_rgb, np.cov(pixels_NC.T, bias=True), rtol=1e-9)


def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path):
    source = folder(tmp_path / "source", train=60, val=10)
    lay(source, {"train/a/cut.jpg": encoded(picture(0))[:300]})
    for workers in (1, 3):
        pack(PackOptions(str(source), tmp_path / str(workers), workers=workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_shards_end_at_their_size(tmp_path):
    rng = np.random.default_rng(0)
    noise = {}
    for split in ("train", "val"):
        for i in range(20):
            image = Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8))
            noise[f"{split}/a/{i:02d}.jpg"] = encoded(image, quality=98)
    source = lay(tmp_path / "source", noise)
    manifest = pack(PackOptions(str(source), tmp_path / "out", shard_mb=1, workers=1, segments="off"))
    infos = manifest.splits["train"].shards
    assert len(infos) >= 2
    largest = max(map(len, noise.values()))
    assert all(info.bytes <= 10**6 + largest + 10_000 for info in infos)
    shards = Shards(tmp_path / "out", manifest, "train")
    assert all(shards.encoded(i).tobytes() == noise[shards.key(i)] for i in range(20))


SIXTEEN_BITS = Image.fromarray(np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16))
ODD = {
    "grey.jpg": encoded(picture(1).convert("L")),
    "cmyk.jpg": encoded(picture(2).convert("CMYK")),
    "progressive.jpg": encoded(picture(3), progressive=True),
    "png.JPEG": encoded(picture(4), "PNG"),
    "palette.png": encoded(picture(5).quantize(16), "PNG"),
    "alpha.png": encoded(picture(6).convert("RGBA"), "PNG"),
    "sixteen.png": encoded(SIXTEEN_BITS, "PNG"),
    "moving.gif": encoded(picture(7).quantize(16), "GIF"),
    "bitmap.bmp": encoded(picture(8), "BMP"),
    "web.webp": encoded(picture(9), "WEBP"),
} | {f"turned{o}.jpg": encoded(picture(10 + o), orientation=o, quality=95) for o in range(2, 9)}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    files = {f"train/a/{name}": data for name, data in ODD.items()}
    source = lay(root / "source", files | {"val/a/1.jpg": encoded(picture(0))})
    manifest = pack(PackOptions(str(source), root / "out", workers=1))
    assert manifest.skipped == ()
    return Shards(root / "out", manifest, "train")


def upright(name):
    """What a viewer shows, uint8 [H, W, 3]."""
    if name == "sixteen.png":
        return np.asarray(SIXTEEN_BITS.point(lambda value: value / 257).convert("L").convert("RGB"))
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(ODD[name]))).convert("RGB"))


def test_odd_files_keep_their_displayed_size(odd):
    for i in range(len(odd)):
        wanted = upright(odd.key(i).split("/")[-1])
        assert (odd.heights_N[i], odd.widths_N[i]) == wanted.shape[:2]


def test_dali_reads_regions_of_odd_files_as_pil_shows_them(odd):
    """Rotated files too: the region is one of the upright image."""

    @pipeline_def(batch_size=len(odd), num_threads=2, device_id=None)  # type: ignore[call-overload]  # the stub lacks None
    def regions():
        file, anchor, shape = fn.external_source(
            lambda: (
                [odd.encoded(i) for i in range(len(odd))],
                [np.array([3, 5], np.float32)] * len(odd),
                [np.array([15, 14], np.float32)] * len(odd),
            ),
            num_outputs=3,
        )
        return fn.decoders.image_slice(
            file, anchor, shape, output_type=types.DALIImageType.RGB, normalized_anchor=False,
            normalized_shape=False, axis_names="HW",
        )  # fmt: skip

    pipe = regions()
    pipe.build()
    (crops,) = pipe.run()
    for i in range(len(odd)):
        name = odd.key(i).split("/")[-1]
        wanted = upright(name)[3:18, 5:19].astype(int)
        assert np.abs(np.asarray(crops.at(i)).astype(int) - wanted).mean() < 4, name


def giant():
    """A PNG file whose header promises 60,000×60,000 pixels."""
    data = encoded(picture(3), "PNG")
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


BAD = {
    "cut.jpg": encoded(picture(1, 200, 300))[:-400],
    "empty.jpg": b"",
    "text.jpg": b"this is no image",
    "cut.png": encoded(picture(2), "PNG")[:-40],
    "bomb.png": giant(),
}


def test_bad_files_are_skipped_with_their_reason(tmp_path, capsys, monkeypatch):
    source = folder(tmp_path / "source")
    lay(source, {f"train/a/{name}": data for name, data in BAD.items()} | {"val/b/[red].jpg": b"x"})
    monkeypatch.setattr(sys, "argv", ["pack", str(source), str(tmp_path / "out"), "--workers", "1"])
    main()
    manifest = read_manifest(tmp_path / "out")
    listed = {(file.split, file.key) for file in manifest.skipped}
    assert listed == {("train", f"train/a/{name}") for name in BAD} | {("val", "val/b/[red].jpg")}
    assert manifest.splits["train"].images == 12
    reasons = {file.key: file.reason for file in manifest.skipped}
    assert "empty" in reasons["train/a/empty.jpg"]
    assert "truncated" in reasons["train/a/cut.jpg"]
    assert "60000×60000" in reasons["train/a/bomb.png"]
    told = capsys.readouterr().out
    assert all(f"{key}: {reason}" in told for key, reason in reasons.items())


@pytest.mark.parametrize("images", [18, 20])
def test_what_is_held_out_is_told_with_a_warning_where_it_is_little(tmp_path, capsys, monkeypatch, images):
    data = encoded(picture(0))
    lay(tmp_path / "source", {f"{label}/{i}.jpg": data for label in "ab" for i in range(images)})
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["pack", f"{tmp_path}/source", str(out), "--workers", "1", "--val-share", "0.5"]
    )
    main()
    told = capsys.readouterr().out
    held = 2 * round(images / 2)
    assert f"held out for validation: {held} of {2 * images} files, 50% of each class" in told
    assert read_manifest(out).splits["val"].images == held
    assert ("warning: of 18 validation images each is 6% of the accuracy" in told) == (images == 18)


def test_classes_of_one_image_have_none_to_hold_out(tmp_path):
    lay(tmp_path / "source", {f"{label}/0.jpg": encoded(picture(0)) for label in "ab"})
    with pytest.raises(UserError, match="no images for the split val: none of a class's single image"):
        pack(PackOptions(str(tmp_path / "source"), tmp_path / "out", workers=1))
    assert names(tmp_path) == ["source"]


def test_a_class_of_bad_files_only(tmp_path):
    source = folder(tmp_path / "source")
    for file in (source / "train" / "b").iterdir():
        file.write_bytes(b"junk")
    with pytest.raises(UserError, match="class b: none of its training images can be read"):
        pack(PackOptions(str(source), tmp_path / "out", workers=1))
    assert names(tmp_path) == ["source"]


def test_a_validation_set_of_bad_files_only(tmp_path):
    source = folder(tmp_path / "source")
    for file in (source / "val").rglob("*.jpg"):
        file.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"no image of split val can be read; val/a/0\.jpg"):
        pack(PackOptions(str(source), tmp_path / "out", workers=1))
    assert names(tmp_path) == ["source"]


def test_what_is_there_is_replaced_only_when_asked(tmp_path):
    out = tmp_path / "out"
    pack(PackOptions(str(folder(tmp_path / "1")), out, workers=1))
    before = contents(out)
    other = folder(tmp_path / "2", train=3)
    with pytest.raises(UserError, match=r"out exists already.*--overwrite"):
        pack(PackOptions(str(other), out, workers=1))
    assert contents(out) == before
    assert pack(PackOptions(str(other), out, workers=1, overwrite=True)).splits["train"].images == 6
    assert names(tmp_path) == ["1", "2", "out"]
    verify(out, read_manifest(out))


def test_a_failed_replacement_leaves_the_old_one(tmp_path):
    out = tmp_path / "out"
    pack(PackOptions(str(folder(tmp_path / "1")), out, workers=1))
    before = contents(out)
    other = folder(tmp_path / "2")
    for file in (other / "train" / "b").iterdir():
        file.write_bytes(b"junk")
    with pytest.raises(UserError, match="class b"):
        pack(PackOptions(str(other), out, workers=1, overwrite=True))
    assert contents(out) == before
    assert names(tmp_path) == ["1", "2", "out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_only_a_data_set_is_ever_replaced(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        lay(out, {"thesis.tex": b"mine"})
    with pytest.raises(UserError, match="not a packed data set, so it is left alone"):
        pack(PackOptions(str(folder(tmp_path / "source")), out, workers=1, overwrite=True))
    assert (out if kind == "file" else out / "thesis.tex").read_bytes() == b"mine"


def noisy(root, images=30):
    """A folder of several shards of a megabyte."""
    rng = np.random.default_rng(0)
    noise = {}
    for i in range(images):
        image = Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8))
        noise[f"{'val' if i % 10 == 9 else 'train'}/{'ab'[i % 2 if i % 10 < 9 else 0]}/{i:02d}.jpg"] = encoded(
            image, quality=98
        )
    return lay(root, noise)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_packing_goes_on_with_what_is_left(tmp_path, monkeypatch, capsys, workers):
    source, out = noisy(tmp_path / "source", images=80), tmp_path / "out"
    options = PackOptions(str(source), out, shard_mb=1, workers=workers)
    real = pipelines.pack.run_in_processes
    done: list[str] = []

    def cut(function, tasks, **how):
        for number, result in enumerate(real(function, tasks, **how)):
            if number == 2:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(pipelines.pack, "run_in_processes", cut)
    with pytest.raises(KeyboardInterrupt):
        pack(options)
    assert names(tmp_path) == ["out.partial", "source"]

    def counted(function, tasks, **how):
        done.extend(task.name for task in tasks)
        return real(function, tasks, **how)

    monkeypatch.setattr(pipelines.pack, "run_in_processes", counted)
    manifest = pack(options)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    assert 0 < len(done) <= len(shards) - 2
    assert "shards are packed already" in capsys.readouterr().err
    pack(PackOptions(str(source), tmp_path / "fresh", shard_mb=1, workers=1))
    assert contents(out) == contents(tmp_path / "fresh")
    assert names(tmp_path) == ["fresh", "out", "source"]


@pytest.mark.parametrize("change", ["source", "shards", "damage"])
def test_only_what_would_be_packed_again_alike_is_taken_over(tmp_path, monkeypatch, change):
    source, out = noisy(tmp_path / "source"), tmp_path / "out"
    real = pipelines.pack.run_in_processes

    def cut(*arguments, **how):
        yield from list(real(*arguments, **how))[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(pipelines.pack, "run_in_processes", cut)
    with pytest.raises(KeyboardInterrupt):
        pack(PackOptions(str(source), out, shard_mb=1, workers=1))
    monkeypatch.setattr(pipelines.pack, "run_in_processes", real)
    shard_mb = 1
    if change == "source":  # the same name and size, other bytes
        file = source / "train" / "a" / "00.jpg"
        data = bytearray(file.read_bytes())
        data[-100] ^= 1
        file.write_bytes(data)
    elif change == "shards":
        shard_mb = 2
    else:
        first = tmp_path / "out.partial" / "train-00000.arrow"
        first.write_bytes(first.read_bytes()[:-10])
    for name in ("out", "fresh"):
        pack(PackOptions(str(source), tmp_path / name, shard_mb=shard_mb, workers=1))
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_killed_process_is_a_failure_that_keeps_the_finished_shards(tmp_path, capsys):
    """As the kernel does when memory runs out: the command says so, and the same command resumes."""
    source, out = noisy(tmp_path / "source", images=160), tmp_path / "out"
    child = run(source, out, "--workers", "2", "--shard-mb", "1")
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out.partial" / "packing").glob("*.json")):
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        for process in psutil.Process(child.pid).children():
            if "spawn_main" in " ".join(process.cmdline()):
                process.kill()
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 1
    assert "a process was killed" in said
    assert "the finished shards are kept" in said
    assert "Traceback" not in said
    assert list((tmp_path / "out.partial").glob("*.arrow"))
    pack(PackOptions(str(source), out, shard_mb=1, workers=1))
    assert "shards are packed already" in capsys.readouterr().err
    pack(PackOptions(str(source), tmp_path / "fresh", shard_mb=1, workers=1))
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_bug_keeps_the_finished_shards_and_its_traceback(tmp_path, monkeypatch, capsys):
    """A ValueError that is not the user's mistake: not exit code 2, nothing deleted."""
    source, decoded = noisy(tmp_path / "source"), []
    command = ["pack", str(source), str(tmp_path / "out"), "--shard-mb", "1", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", command)

    def with_a_bug(data):
        decoded.append(data)
        if len(decoded) > 20:
            raise ValueError("not enough values to unpack")
        return decode(data)

    monkeypatch.setattr(pipelines.packing.proof, "decode", with_a_bug)
    with pytest.raises(ValueError, match="not enough values to unpack") as raised:
        main()
    assert not isinstance(raised.value, UserError)
    finished = (tmp_path / "out.partial" / "train-00000.arrow").stat().st_ino
    monkeypatch.setattr(pipelines.packing.proof, "decode", decode)
    main()
    assert "shards are packed already" in capsys.readouterr().err
    assert (tmp_path / "out" / "train-00000.arrow").stat().st_ino == finished


def test_two_packings_of_one_folder_at_once(tmp_path):
    source, out = folder(tmp_path / "source"), tmp_path / "out"
    (tmp_path / "out.partial").mkdir()
    with FileLock(tmp_path / "out.partial" / "lock"), pytest.raises(UserError, match="by another process"):
        pack(PackOptions(str(source), out, workers=1))
    pack(PackOptions(str(source), out, workers=1))
    assert names(tmp_path) == ["out", "source"]


def test_packed_as_tasks_of_a_cluster(tmp_path, ray_cluster):
    """The same bytes as by one process, from tasks that other processes of the cluster run."""
    source = noisy(tmp_path / "source")
    lay(source, {"train/a/cut.jpg": encoded(picture(0))[:300]})
    manifest = pack(PackOptions(str(source), tmp_path / "ray", shard_mb=1, ray=ray_cluster.head.address))
    assert [file.key for file in manifest.skipped] == ["train/a/cut.jpg"]
    pack(PackOptions(str(source), tmp_path / "one", shard_mb=1, workers=1))
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def test_no_cluster_at_the_address(tmp_path):
    ray.shutdown()
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        pack(PackOptions(str(folder(tmp_path / "source")), tmp_path / "out", ray="127.0.0.1:1"))


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_packing_goes_on(tmp_path, blow):
    """The command itself, stopped while it writes. It leaves its working folder, never OUT."""
    source = folder(tmp_path / "source")
    lay(source, {f"train/a/more-{i}.jpg": encoded(picture(0)) for i in range(1500)})
    child = run(source, tmp_path / "out", "--workers", "1")
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out.partial" / "packing" / "plan").exists():
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.send_signal(blow)
        _, told = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").exists()
    if blow == signal.SIGINT:
        # Interrupted while compiling, CPython ends by the signal itself: a shell shows 130 for both.
        assert child.returncode in (130, -signal.SIGINT)
        assert "interrupted" in told
        assert "Traceback" not in told
    for name in ("out", "fresh"):
        pack(PackOptions(str(source), tmp_path / name, workers=1))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert names(tmp_path) == ["fresh", "out", "source"]


def test_a_full_disk(tmp_path):
    """A limit on the size of files stands for it: the same error of the operating system at the same place."""
    import resource

    source = folder(tmp_path / "source", train=200)
    child = run(
        source,
        tmp_path / "out",
        "--workers",
        "1",
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
    _, told = child.communicate(timeout=60)
    assert child.returncode == 2
    assert "error:" in told
    assert "Traceback" not in told
    assert names(tmp_path) == ["out.partial", "source"]
    pack(PackOptions(str(source), tmp_path / "out", workers=1))  # there is room again
    assert names(tmp_path) == ["out", "source"]


def test_a_replacement_whose_last_step_fails(tmp_path, monkeypatch):
    out = tmp_path / "out"
    pack(PackOptions(str(folder(tmp_path / "1")), out, workers=1))
    before = contents(out)
    rename = Path.rename

    def failing(self, target):
        if self.name == "out.partial":
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        pack(PackOptions(str(folder(tmp_path / "2", train=3)), out, workers=1, overwrite=True))
    assert contents(out) == before
    assert "out.old" not in names(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_may_be_packed_into(tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    pack(PackOptions(str(folder(tmp_path / "source")), tmp_path / "out", workers=1, overwrite=overwrite))
    assert names(tmp_path) == ["out", "source"]


def mistakes(root):
    """Arguments after which nothing may have changed, and what the error has to name."""
    source = folder(root / "source")
    empty = folder(root / "empty")
    (empty / "train" / "c").mkdir()
    two = folder(root / "two")
    lay(two, {"wnids.txt": b"a\nb\n"})
    lay(root, {"cut.tar.xz": b"\xfd7zXZ\x00\x00\x04", "file": b""})
    return {
        "missing": (["nowhere", root / "out"], "nowhere"),
        "empty class": ([empty, root / "out"], "train/c is empty"),
        "two formats": ([two, root / "out"], "two layouts at once"),
        "corrupt archive": ([root / "cut.tar.xz", root / "out"], "corrupt or cut off"),
        "out below a file": ([source, root / "file" / "out"], "cannot be written"),
        "no such class": ([source, root / "out", "--classes", "x"], "--classes x"),
        "workers": ([source, root / "out", "--workers", "0"], "--workers"),
        "shard size": ([source, root / "out", "--shard-mb", "0"], "--shard-mb"),
        "share": ([source / "train", root / "out", "--val-share", "2"], "--val-share"),
    }


@pytest.mark.parametrize(
    "name",
    ["missing", "empty class", "two formats", "corrupt archive", "out below a file", "no such class", "workers",
     "shard size", "share"],
)  # fmt: skip
def test_mistakes_end_with_code_2_and_leave_nothing(tmp_path, monkeypatch, capsys, name):
    arguments, named = mistakes(tmp_path)[name]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["pack", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert named in told.err
    assert told.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_real_images(tmp_path, shared_data):
    """Files of ImageNet, two classes; the statistics against a direct computation over the archive."""
    files, pixels = {}, []
    with tarfile.open(shared_data / "imagenet-sample-250.tar") as archive:
        members = [member for member in archive if member.name.endswith(".JPEG")]
        for i, member in enumerate(sorted(members, key=lambda m: m.name)[:40]):
            file = archive.extractfile(member)
            assert file is not None
            data = file.read()
            split = "val" if i % 10 == 9 else "train"
            files[f"{split}/{'ab'[i % 2] if split == 'train' else 'a'}/{i}.JPEG"] = data
            if split == "train":
                image = Image.open(io.BytesIO(data)).convert("RGB")
                pixels.append(np.asarray(image, np.float64).reshape(-1, 3))
    manifest = pack(PackOptions(str(lay(tmp_path / "source", files)), tmp_path / "out", workers=1))
    assert manifest.skipped == ()
    assert {name: split.images for name, split in manifest.splits.items()} == {"train": 36, "val": 4}
    np.testing.assert_allclose(manifest.mean_rgb, np.concatenate(pixels).mean(0), rtol=1e-12)
    np.testing.assert_allclose(manifest.covariance_rgb, np.cov(np.concatenate(pixels).T, bias=True), rtol=1e-9)
