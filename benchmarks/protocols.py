"""Compares the test protocols with a plain loop over crops: `python -m benchmarks.protocols`.

    for each photograph: 150 crops one at a time through torchvision's vgg16 and PIL; our multi-crop; our dense;
    both of ours with torch's convolutions too; all at Q = 256, 384, 512, starting from the file's bytes
    medians of the ratios, and the difference of our posteriors from the plain loop's, as a table and as JSON

Shapes: K classes.
"""

import copy
import io
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torchvision
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.nn import Module

from benchmarks.data import require_photographs, write_result
from benchmarks.machine import describe
from cli.command import exit_codes
from pipelines.loading.whole_images import whole_images
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.net.torchvision import to_torchvision
from vgg.testing.protocols import dense, multi_crop
from vgg.testing.winograd import WinogradVGG

ROOT = Path(__file__).resolve().parent.parent
SCALES = (256, 384, 512)
RATIOS = (
    ("naive", "multi-crop"),
    ("naive", "dense"),
    ("multi-crop", "dense"),
    ("multi-crop, torch's", "multi-crop"),
    ("dense, torch's", "dense"),
    ("multi-crop, torch's", "dense, torch's"),
)


@dataclass(frozen=True)
class Protocols:
    """Seconds per image of each protocol."""

    photographs: Path = ROOT.parent / "shared" / "data" / "imagenet-sample-250.tar"
    """Archive of full-size JPEG files."""
    images: int = 5
    """Photographs to score."""
    threads: int = os.cpu_count() or 1
    out: Path = ROOT / "benchmarks" / "results" / "protocols.json"


def main() -> None:
    """Measure and write. Exit code 2 where the photographs do not exist."""
    options = tyro.cli(Protocols, prog="python -m benchmarks.protocols")
    with exit_codes():
        require_photographs(options.photographs)
        torch.set_num_threads(options.threads)
        with tempfile.TemporaryDirectory() as folder:
            shards = _packed(options, Path(folder))
            rows = measure(shards, range(len(shards)), options.threads)
        ratios = {f"{over} / {under}": median(row[over] / row[under] for row in rows) for over, under in RATIOS}
        result = {
            "machine": describe(torch.device("cpu")),
            "threads": options.threads,
            "ratios": ratios,
            "largest_difference": max(row["difference"] for row in rows),
            "images": rows,
        }
        write_result(result, options.out)
        Console().print(table(rows, ratios))


def table(rows: list[dict[str, float]], ratios: dict[str, float]) -> Table:
    """The results for the terminal."""
    shown = Table("", "seconds an image, median")
    for name in ("naive", "multi-crop", "dense", "multi-crop, torch's", "dense, torch's"):
        shown.add_row(name, f"{median(row[name] for row in rows):.2f}")
    for name, ratio in ratios.items():
        shown.add_row(name, f"{ratio:.2f} times")
    return shown


@torch.inference_mode()
def measure(shards: Shards, images: range, threads: int) -> list[dict[str, float]]:
    """Seconds of each protocol on each image, in a random order for each image."""
    net = VGG(Architecture("D", 1000, 224))
    initialise(net, "glorot", 0)
    naive_net = torchvision.models.vgg16(weights=None).eval()
    naive_net.load_state_dict(to_torchvision(net))
    plain = net.to(memory_format=torch.channels_last).eval()
    ours = WinogradVGG(copy.deepcopy(plain))
    mean_C = np.array([123.7, 116.3, 103.5], np.float32)
    rows = []
    for place, image in enumerate(images):
        protocols: dict[str, Callable[[], np.ndarray]] = {
            "naive": partial(naive, naive_net, shards.encoded(image).tobytes(), mean_C),
            "multi-crop": partial(multi_crop_posterior, ours, shards, image, mean_C, threads),
            "dense": partial(dense_posterior, ours, shards, image, mean_C, threads),
            "multi-crop, torch's": partial(multi_crop_posterior, plain, shards, image, mean_C, threads),
            "dense, torch's": partial(dense_posterior, plain, shards, image, mean_C, threads),
        }
        found, row = {}, {}
        for name in random.Random(place).sample(list(protocols), len(protocols)):
            began = time.perf_counter()
            found[name] = protocols[name]()
            row[name] = time.perf_counter() - began
        row["difference"] = float(np.abs(found["naive"] - found["multi-crop"]).max())
        print(
            f"{shards.key(image)}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True
        )
        rows.append(row)
    return rows


def naive(net: Module, file: bytes, mean_C: np.ndarray) -> np.ndarray:
    """The mean posterior [K] of 150 crops, each scored on its own."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    posteriors = []
    for scale in SCALES:
        width, height = (round(length * scale / min(image.size)) for length in image.size)
        rescaled = image.resize((width, height), Image.Resampling.BILINEAR)
        for i in range(5):
            for j in range(5):
                top, left = int((height - 224) * i / 4 + 0.5), int((width - 224) * j / 4 + 0.5)
                crop = rescaled.crop((left, top, left + 224, top + 224))
                for view in (crop, crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
                    pixels_HWC = np.asarray(view, np.float32) - mean_C
                    posteriors.append(net(torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]).softmax(1))
    return torch.cat(posteriors).mean(0).numpy()


def multi_crop_posterior(
    net: Module, shards: Shards, image: int, mean_C: np.ndarray, threads: int
) -> np.ndarray:
    """The multi-crop protocol's posterior [K]."""
    found = [
        multi_crop(net, images_BCHW, side=224, batch=50)
        for images_BCHW in _rescaled(shards, image, mean_C, threads)
    ]
    return torch.cat(found).mean(0).numpy()


def dense_posterior(net: Module, shards: Shards, image: int, mean_C: np.ndarray, threads: int) -> np.ndarray:
    """The dense protocol's posterior [K]."""
    return torch.cat([dense(net, each) for each in _rescaled(shards, image, mean_C, threads)]).mean(0).numpy()


def _rescaled(shards: Shards, image: int, mean_C: np.ndarray, threads: int) -> list[torch.Tensor]:
    device, images = torch.device("cpu"), np.array([image])
    return [
        (batch.images_BHWC.float() - torch.from_numpy(mean_C)).permute(0, 3, 1, 2)
        for scale in SCALES
        for batch in whole_images(shards, images, scale=scale, pixels=1, device=device, threads=threads)
    ]


def _packed(options: Protocols, folder: Path) -> Shards:
    with tarfile.open(options.photographs) as archive:
        names = [name for name in archive.getnames() if name.lower().endswith(".jpeg")]
        for split in ("train", "val"):
            for name in names[:: len(names) // options.images][: options.images]:
                member = archive.extractfile(name)
                assert member is not None
                target = folder / "source" / split / "photographs" / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(member.read())
    pack(PackOptions(str(folder / "source"), folder / "packed", workers=1))
    return Shards(folder / "packed", read_manifest(folder / "packed"), "val")


if __name__ == "__main__":
    main()
