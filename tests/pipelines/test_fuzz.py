"""Mutated files: packing never crashes nor loses one, and what it packs DALI reads at the size it noted.

FUZZ_FILES sets how many are tried (default 400, about 20 seconds).
"""

import io
import os
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from pipelines.jpeg.transcoding import transcode
from pipelines.pack import pack
from pipelines.packing.decode import decode
from pipelines.packing.options import PackOptions
from pipelines.shards.reader import Shards
from pipelines.sources.source import InlineData, SourceFile
from tests.conftest import ROOT
from tests.pipelines.test_sources import lay

FILES = int(os.environ.get("FUZZ_FILES", "400"))

LOAD = """
import sys
from pathlib import Path
import torch
from pipelines.loading.loaders import EvalLoader
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
root = Path(sys.argv[1])
manifest = read_manifest(root)
shards = Shards(root, manifest, "train")
on = {"device": torch.device("cpu"), "threads": 2}
with EvalLoader(shards, manifest, range(len(shards)), side=32, scale=64, batch=16, **on) as batches:
    print(sum(len(batch.images_B) for batch in batches))
"""


@cache
def seeds() -> list[bytes]:
    """Files of every kind that is read, just large enough to be given restart markers; one that has them."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((112, 84), 3)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": 0, "restart_marker_blocks": 2}),
    ]
    kinds += [
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ]
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds.append(("JPEG", {"exif": exif}))
    files = []
    for form, options in kinds:
        file = io.BytesIO()
        image.save(file, form, **options)
        files.append(file.getvalue())
    for mode in ("CMYK", "L"):
        file = io.BytesIO()
        image.convert(mode).save(file, "JPEG")
        files.append(file.getvalue())
    files.append(transcode(files[0]).data)
    return files


def mutated(number: int) -> bytes:
    """One to four changes: a bit flipped, a stretch cut out, doubled, zeroed or made noise, the end cut off."""
    rng = np.random.default_rng([7, number])
    data = bytearray(seeds()[number % len(seeds())])
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        first, last = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
        last = min(last, first + 40)
        change = rng.integers(0, 7)
        if change <= 1:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        elif change == 2:
            del data[first:last]
        elif change == 3:
            data[first:first] = data[first:last]
        elif change == 4:
            data[first:last] = bytes(last - first)
        elif change == 5:
            del data[last:]
        else:
            data[first:last] = rng.bytes(last - first)
    return bytes(data)


def test_mutated_files(tmp_path):
    files = {f"train/a/{number:05d}.jpg": mutated(number) for number in range(FILES)}
    files |= {"train/a/sound.jpg": seeds()[0], "val/a/sound.jpg": seeds()[0]}
    manifest = pack(PackOptions(str(lay(tmp_path / "source", files)), tmp_path / "out", workers=1))
    shards = Shards(tmp_path / "out", manifest, "train")
    packed = {shards.key(i) for i in range(len(shards))}
    skipped = {file.key for file in manifest.skipped}
    assert packed | skipped == {name for name in files if name.startswith("train")}
    assert not packed & skipped
    assert all(file.reason for file in manifest.skipped)
    assert len(skipped) > FILES / 10
    assert len(packed) > FILES / 10
    assert manifest.segments is not None
    assert manifest.segments.transcoded > FILES / 20
    assert manifest.segments.kept["corrupt entropy-coded data"], "PIL shows something of them"
    done = subprocess.run(  # a crash would end this process too
        [sys.executable, "-c", LOAD, tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    assert int(done.stdout.split()[-1]) == len(shards)


def test_the_same_mutation_gives_the_same_answer():
    for number in range(60):
        first, second = decode(mutated(number)), decode(mutated(number))
        assert isinstance(first, str) == isinstance(second, str)
        if isinstance(first, str):
            assert first == second
    assert SourceFile("train", "x", "a", InlineData(mutated(1))).content.read() == mutated(1)
