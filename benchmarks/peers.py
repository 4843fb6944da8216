"""Loaders of other libraries, which `benchmarks/data.py` compares with ours.

All do the same work: for every image, shorter side S drawn from [256; 512], a random 224×224 crop, a random
mirror image, mean subtracted, as float32 batches [B, 3, 224, 224]. None divides by a standard deviation: the
paper does not.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision import io as vision_io
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

SIDE, LEAST, MOST = 224, 256, 512
MEAN = (123.68, 116.78, 103.94)
ENDLESS = 10**6
PASSES = 1000
"""Times that a loader which makes a plan of all its images passes over them."""

Batches = Iterator[torch.Tensor]


def photographs(folder: Path) -> list[Path]:
    """The files of the training split, as `benchmarks/data.py` lays them out."""
    return sorted((folder / "files" / "train").rglob("*.JPEG"))


def augment(image: Any) -> torch.Tensor:
    """torchvision's transforms of a PIL image or a uint8 tensor [3, H, W]."""
    scale = int(torch.randint(LEAST, MOST + 1, ()))
    image = F.resize(image, [scale], antialias=True)
    image = v2.RandomCrop(SIDE)(image)
    image = v2.RandomHorizontalFlip()(image)
    pixels = image if isinstance(image, torch.Tensor) else F.pil_to_tensor(image)
    return pixels.float() - torch.tensor(MEAN)[:, None, None]


def from_pil(data: bytes) -> torch.Tensor:
    """Decode by PIL, as torchvision's reference training does by default, and augment."""
    return augment(Image.open(io.BytesIO(data)).convert("RGB"))


class _Files(Dataset[torch.Tensor]):
    def __init__(self, files: list[Path], decode_jpeg: bool) -> None:
        self._files, self._decode_jpeg = files, decode_jpeg

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, place: int) -> torch.Tensor:
        file = self._files[place % len(self._files)]
        if not self._decode_jpeg:
            return from_pil(file.read_bytes())
        data = vision_io.read_file(str(file))
        return augment(vision_io.decode_jpeg(data, mode=vision_io.ImageReadMode.RGB))


def torchvision_pil(folder: Path, batch: int, cores: int) -> Batches:
    """torchvision DataLoader with PIL, one worker per core."""
    return iter(DataLoader(_Files(photographs(folder), False), batch, num_workers=cores))


def torchvision_decode_jpeg(folder: Path, batch: int, cores: int) -> Batches:
    """torchvision DataLoader with `decode_jpeg`, one worker per core."""
    return iter(DataLoader(_Files(photographs(folder), True), batch, num_workers=cores))


def webdataset(folder: Path, batch: int, cores: int) -> Batches:
    """webdataset from tar shards, PIL, one worker per core."""
    import webdataset as wds  # type: ignore[import-not-found,unused-ignore]

    shards = []
    for number, files in enumerate(np.array_split(np.asarray(photographs(folder)), 2 * cores)):
        shards.append(str(folder / f"web-{number}.tar"))
        with tarfile.open(shards[-1], "w") as archive:
            for place, file in enumerate(files):
                archive.add(file, f"{place:06d}.jpg")
    data = wds.WebDataset(shards, resampled=True, shardshuffle=False, empty_check=False)
    data = data.shuffle(100).to_tuple("jpg").map_tuple(from_pil).batched(batch, partial=False)
    return (images for (images,) in wds.WebLoader(data, batch_size=None, num_workers=cores))


def litdata(folder: Path, batch: int, cores: int) -> Batches:
    """litdata from its chunks, PIL, one worker per core."""
    from litdata import StreamingDataset  # type: ignore[import-not-found,unused-ignore]
    from litdata.streaming import Cache  # type: ignore[import-not-found,unused-ignore]

    chunks = folder / "lit"
    if not chunks.exists():
        cache = Cache(str(chunks), chunk_bytes="8MB")
        for place, file in enumerate(photographs(folder)):
            cache[place] = {"image": file.read_bytes()}
        cache.done()
        cache.merge()

    class Endless(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            while True:
                for item in StreamingDataset(str(chunks), shuffle=True):
                    yield from_pil(item["image"])

    return iter(DataLoader(Endless(), batch, num_workers=cores))


def mosaicml_streaming(folder: Path, batch: int, cores: int) -> Batches:
    """MosaicML streaming from its shards, PIL, one worker per core."""
    from streaming import MDSWriter, Stream, StreamingDataset  # type: ignore[import-not-found,unused-ignore]

    shards = folder / "mds"
    if not shards.exists():
        with MDSWriter(out=str(shards), columns={"image": "bytes"}, size_limit="8mb") as writer:
            for file in photographs(folder):
                writer.write({"image": file.read_bytes()})

    class Crops(StreamingDataset):  # type: ignore[misc,unused-ignore]
        def __getitem__(self, place: int) -> torch.Tensor:
            return from_pil(super().__getitem__(place)["image"])

    repeated = Stream(local=str(shards), repeat=PASSES)
    data = Crops(streams=[repeated], shuffle=True, batch_size=batch)
    return iter(DataLoader(data, batch, num_workers=cores))


def spdl(folder: Path, batch: int, cores: int) -> Batches:
    """SPDL: threads that decode, resize, crop and mirror by FFmpeg."""
    from spdl import io as spdl_io  # type: ignore[import-not-found,unused-ignore]
    from spdl.pipeline import PipelineBuilder  # type: ignore[import-not-found,unused-ignore]

    files, drawn = photographs(folder), np.random.default_rng(0)

    def planned() -> Iterator[tuple[Path, str]]:
        while True:
            for place in drawn.permutation(len(files)):
                side, (x, y), mirrored = drawn.integers(LEAST, MOST + 1), drawn.random(2), drawn.random() < 0.5
                scaled = f"scale=w='if(gt(iw,ih),-1,{side})':h='if(gt(iw,ih),{side},-1)':flags=bilinear"
                cropped = f"crop={SIDE}:{SIDE}:(iw-{SIDE})*{x}:(ih-{SIDE})*{y}:exact=1"
                parts = [scaled, cropped, *["hflip"] * mirrored, "format=pix_fmts=rgb24"]
                yield files[place], ",".join(parts)

    def decoded(plan: tuple[Path, str]) -> torch.Tensor:
        buffer = spdl_io.load_image(plan[0].read_bytes(), filter_desc=plan[1])
        image_HWC: torch.Tensor = spdl_io.to_torch(buffer)
        return image_HWC

    def to_batch(images: list[torch.Tensor]) -> torch.Tensor:
        return (torch.stack(images).float() - torch.tensor(MEAN)).permute(0, 3, 1, 2).contiguous()

    builder = PipelineBuilder().add_source(planned()).pipe(decoded, concurrency=cores)
    pipeline = builder.aggregate(batch, drop_last=True).pipe(to_batch).add_sink().build(num_threads=cores)
    with pipeline.auto_stop():
        yield from pipeline


def dali_whole(folder: Path, batch: int, cores: int) -> Batches:
    """DALI: whole images decoded, resized, cropped."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=batch, num_threads=cores, device_id=None)  # type: ignore[call-overload]
    def graph() -> Any:
        files, _ = fn.readers.file(files=[str(file) for file in photographs(folder)], random_shuffle=True)
        images: Any = fn.decoders.image(files, device="cpu", output_type=types.DALIImageType.RGB)
        scale = fn.random.uniform(range=(LEAST, MOST))
        images = fn.resize(images, resize_shorter=scale, interp_type=types.DALIInterpType.INTERP_LINEAR)
        return fn.crop_mirror_normalize(
            images,
            crop=(SIDE, SIDE),
            crop_pos_x=fn.random.uniform(range=(0.0, 1.0)),
            crop_pos_y=fn.random.uniform(range=(0.0, 1.0)),
            mirror=fn.random.coin_flip(),
            mean=list(MEAN),
            std=[1.0, 1.0, 1.0],
            dtype=types.DALIDataType.FLOAT,
        )

    return run_graph(graph())


def run_graph(pipe: Any) -> Batches:
    """The batches of a DALI pipeline, in memory of their own."""
    pipe.build()
    while True:
        (images,) = pipe.run()
        yield torch.from_dlpack(images.as_tensor()).clone()
