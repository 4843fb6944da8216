"""DALI executes the draws: the pixels are PIL's, the batches those of the stream."""

import io
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from cli.errors import UserError
from cluster.partition import rank_slice
from pipelines.loading import dali
from pipelines.loading.batch import to_input
from pipelines.loading.dali_graphs import crop_graph
from pipelines.loading.draw import Augment, centre, colour_axes, draw
from pipelines.loading.loaders import EvalLoader, TrainLoader
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import read_manifest
from pipelines.shards.order import training_order
from pipelines.shards.reader import Shards
from tests import reference
from tests.photos import picture

CPU = torch.device("cpu")
eval_loader = partial(EvalLoader, device=CPU, threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Packed files of many shapes and kinds; no chroma subsampling, which decoders fill in differently."""
    folder = tmp_path_factory.mktemp("photos")
    shapes = [
        (375, 500),
        (500, 333),
        (240, 900),
        (64, 64),
        (1200, 800),
        (31, 45),
        (257, 256),
        (700, 701),
        (1, 1),
        (2, 40),
    ]
    for label in ("a", "b"):
        for split in ("train", "val"):
            (folder / "source" / split / label).mkdir(parents=True)
            for i, shape in enumerate(shapes):
                name = folder / "source" / split / label / f"{i}"
                picture(*shape, seed=i).save(f"{name}.jpg", quality=95, subsampling=0)
            picture(300, 400, "L").save(f"{name}-grey.jpg", quality=95)
            picture(300, 400, "CMYK").save(f"{name}-cmyk.jpg", quality=95, subsampling=0)
            picture(300, 400).save(f"{name}-png.jpg", "PNG")
            turned = picture(300, 400)
            exif = turned.getexif()
            exif[0x0112] = 6
            turned.save(f"{name}-turned.jpg", quality=95, subsampling=0, exif=exif)
    pack(PackOptions(str(folder / "source"), folder / "packed", workers=1))
    manifest = read_manifest(folder / "packed")
    return manifest, Shards(folder / "packed", manifest, "train"), Shards(folder / "packed", manifest, "val")


def loader(photos, augment, **changes):
    manifest, shards, _ = photos
    usual = partial(TrainLoader, seed=1, batch=24, rows=range(24), first_step=0, steps=2, device=CPU, threads=1)
    return usual(shards, manifest, augment, **changes)


@pytest.mark.parametrize(
    "augment",
    [
        Augment(224, 224, 224),
        Augment(224, 256, 512),
        Augment(224, 384, 384),
        Augment(64, 64, 80, mirror=False, colour_std=0.0),
    ],
)
def test_pixels_are_those_of_the_whole_image_rescaled_by_pil(photos, augment):
    """To one level of 255, wherever the crop lies: the filter's margin is decoded too."""
    manifest, shards, _ = photos
    axes = colour_axes(np.asarray(manifest.covariance_rgb))
    with loader(photos, augment) as batches:
        for step, batch in enumerate(batches):
            epochs_B, images_B = training_order(1, 24 * step, 24, len(shards))
            assert (batch.images_B == images_B).all()
            sizes = shards.heights_N[images_B], shards.widths_N[images_B]
            draws = draw(1, epochs_B, images_B, *sizes, augment, axes)
            wanted = reference.crops(shards, images_B, draws, augment.side).astype(int)
            difference = np.abs(batch.images_BHWC.numpy() - wanted)
            assert difference.max() <= 2
            offset = draws.shift_BC - np.asarray(manifest.mean_rgb, np.float32)
            np.testing.assert_allclose(batch.offset_BC.numpy(), offset, rtol=1e-6)
            assert (batch.labels_B.numpy() == shards.labels_N[images_B]).all()
    assert step == 1


def test_the_net_sees_pixels_plus_offset_in_channels_last(photos):
    with loader(photos, Augment(32, 40, 60)) as batches:
        batch = next(batches)
    images_BCHW = to_input(batch)
    assert images_BCHW.shape == (24, 3, 32, 32)
    assert images_BCHW.dtype == torch.float32
    assert images_BCHW.is_contiguous(memory_format=torch.channels_last)
    wanted = batch.images_BHWC[5, 7, 9].float() + batch.offset_BC[5]
    torch.testing.assert_close(images_BCHW[5, :, 7, 9], wanted)
    over = torch.full_like(images_BCHW, torch.nan)
    assert to_input(batch, over).data_ptr() == over.data_ptr()
    assert torch.equal(over, images_BCHW)
    assert torch.equal(to_input(batch, over[:3]), images_BCHW)  # of another size: not written over


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_ranks_batches_are_the_rows_of_the_whole(photos, world):
    augment = Augment(64, 64, 96)
    with loader(photos, augment) as batches:
        whole = list(batches)
    parts = []
    for rank in range(world):
        with loader(photos, augment, rows=rank_slice(rank, world, 24)) as batches:
            parts.append(list(batches))
    for step in range(2):
        for name in ("images_BHWC", "offset_BC", "labels_B"):
            joined = torch.cat([getattr(part[step], name) for part in parts])
            assert torch.equal(joined, getattr(whole[step], name))


def test_taken_up_in_the_middle(photos):
    augment = Augment(64, 64, 96)
    with loader(photos, augment, steps=4) as batches:
        whole = list(batches)
    with loader(photos, augment, first_step=2, steps=2) as batches:
        rest = list(batches)
    assert len(rest) == 2
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert torch.equal(ours.images_BHWC, theirs.images_BHWC)
        assert torch.equal(ours.offset_BC, theirs.offset_BC)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_evaluation_sees_every_image_once(photos, world):
    manifest, _, shards = photos
    seen = []
    for rank in range(world):
        mine = rank_slice(rank, world, len(shards))
        with eval_loader(shards, manifest, mine, side=64, scale=72, batch=7) as batches:
            for batch in batches:
                assert len(batch.labels_B) == len(batch.images_BHWC) <= 7
                seen += list(batch.images_B)
    assert seen == list(range(len(shards)))


def test_a_kept_loader_yields_the_same_again_from_one_pipeline(photos, monkeypatch):
    manifest, _, shards = photos
    built = []

    def counted(*given, **options):
        built.append(given)
        return crop_graph(*given, **options)

    monkeypatch.setattr(dali, "crop_graph", counted)

    def pixels(loader, most=10):
        with loader as batches:
            return [batch.images_BHWC.clone() for _, batch in zip(range(most), batches, strict=False)]

    loader = partial(eval_loader, shards, manifest, side=64, scale=72, batch=2)
    wanted = pixels(loader(range(7)))
    kept = loader(range(7), kept=True)
    built.clear()
    for builds in (1, 1, 1):
        found = pixels(kept)
        assert [len(images_BHWC) for images_BHWC in found] == [2, 2, 2, 1]
        assert all(map(torch.equal, found, wanted))
        assert len(built) == builds
    assert torch.equal(pixels(kept, most=1)[0], wanted[0])  # left before the end
    assert all(map(torch.equal, pixels(kept), wanted))
    assert len(built) == 2
    nothing = loader(range(0), kept=True)
    assert [pixels(nothing), pixels(nothing)] == [[], []]


def test_evaluation_crops_the_centre(photos):
    manifest, _, shards = photos
    with eval_loader(shards, manifest, range(4), side=224, scale=256, batch=4) as batches:
        batch = next(batches)
    draws = centre(shards.heights_N[:4], shards.widths_N[:4], 224, 256)
    wanted = reference.crops(shards, range(4), draws, 224).astype(int)
    assert np.abs(batch.images_BHWC.numpy() - wanted).max() <= 2
    np.testing.assert_allclose(batch.offset_BC, -np.tile(manifest.mean_rgb, (4, 1)), rtol=1e-6)


def test_a_file_that_cannot_be_decoded_is_named(photos, monkeypatch):
    """Packing keeps such files out; a reader that meets one must still say which."""
    manifest, shards, _ = photos
    junk = np.frombuffer(b"no image at all", np.uint8), np.empty(0, np.uint16)
    monkeypatch.setattr(shards, "encoded_in_segments", lambda _: junk)
    with eval_loader(shards, manifest, range(2), side=64, scale=64, batch=2) as batches:
        with pytest.raises(UserError, match="cannot be decoded") as error:
            next(batches)
        assert shards.key(0) in str(error.value)


def test_real_photographs(shared_data, tmp_path):
    """Fifty full-size ImageNet files, which have subsampled chroma."""
    import tarfile

    with tarfile.open(shared_data / "imagenet-sample-250.tar") as archive:
        members = [member for member in archive if member.isfile()][:50]
        for i, member in enumerate(members):
            folder = tmp_path / "source" / ("val" if i < 2 else "train") / "x"
            folder.mkdir(parents=True, exist_ok=True)
            stream = archive.extractfile(member)
            assert stream is not None
            (folder / f"{i}.jpg").write_bytes(stream.read())
    manifest = pack(PackOptions(str(tmp_path / "source"), tmp_path / "packed", workers=1))
    shards = Shards(tmp_path / "packed", manifest, "train")
    assert len(shards) == 48
    augment = Augment(224, 256, 512)
    photos = manifest, shards, None
    with loader(photos, augment, batch=48, rows=range(48), steps=1) as batches:
        batch = next(batches)
    epochs_B, images_B = training_order(1, 0, 48, 48)
    axes = colour_axes(np.asarray(manifest.covariance_rgb))
    draws = draw(1, epochs_B, images_B, shards.heights_N[images_B], shards.widths_N[images_B], augment, axes)
    wanted = reference.crops(shards, images_B, draws, 224).astype(int)
    difference = np.abs(batch.images_BHWC.numpy() - wanted)
    assert difference.mean() < 0.3
    assert difference.max() <= 2


def test_reference_sees_a_shifted_crop(photos):
    """The comparison above would notice a crop that is one pixel off."""
    _, shards, _ = photos
    sizes = shards.heights_N[:4], shards.widths_N[:4]
    draws = centre(*sizes, 224, 256)
    moved = replace(draws, left_B=draws.left_B + 1)
    ours = reference.crops(shards, range(4), draws, 224).astype(int)
    theirs = reference.crops(shards, range(4), moved, 224).astype(int)
    assert np.abs(ours - theirs).max() > 50
    assert io.BytesIO(shards.encoded(0).tobytes()).getvalue()[:2] == b"\xff\xd8"


@pytest.mark.parametrize(("threads", "prefetch"), [(3, 1), (2, 5)])
def test_threads_and_prefetch_do_not_change_a_byte(photos, threads, prefetch):
    augment = Augment(64, 64, 96)
    with loader(photos, augment, steps=4) as batches:
        whole = list(batches)
    with loader(photos, augment, steps=4, threads=threads, prefetch=prefetch) as batches:
        other = list(batches)
    assert len(other) == len(whole) == 4
    for ours, theirs in zip(other, whole, strict=True):
        assert torch.equal(ours.images_BHWC, theirs.images_BHWC)


def test_a_loader_that_is_left_early_leaves_no_thread(photos):
    before = threading.active_count()
    with loader(photos, Augment(32, 32, 40), steps=50, prefetch=1) as batches:
        next(batches)
    assert threading.active_count() == before


def test_an_ended_loader_stays_ended(photos):
    with loader(photos, Augment(32, 32, 40), steps=1) as batches:
        assert len(list(batches)) == 1
        assert list(batches) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="placements on a GPU need one")
@pytest.mark.parametrize("placement", ["regions", "gpu"])
def test_a_batch_stays_whole_while_queued_kernels_read_it(photos, placement):
    """The device is behind the host: each batch is read long after the next ones have been decoded."""
    manifest, train_set, _ = photos
    augment = Augment(64, 64, 96, mirror=True, colour_std=0.1)

    def checksums(device_is_behind):
        loader = TrainLoader(
            train_set, manifest, augment, seed=0, batch=8, rows=range(8), first_step=0, steps=40,
            device=torch.device("cuda"), threads=1, placement=placement,
        )  # fmt: skip
        sums = []
        with loader:
            for batch in loader:
                if device_is_behind:
                    torch.cuda._sleep(50_000_000)  # cycles, some 30 ms
                sums.append(batch.images_BHWC.long().sum())
                del batch
                if not device_is_behind:
                    torch.cuda.synchronize()
        return torch.stack(sums).tolist()

    assert checksums(device_is_behind=True) == checksums(device_is_behind=False)
