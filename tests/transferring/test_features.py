"""Features: against torchvision's net by hand, over any workers, resumed, combined, refused.

Shapes: B images of one shape, C = 3, H and W image sides in pixels, N images, F units of fc7.
"""

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn.functional import conv2d, relu

from cli.errors import Failure, UserError
from cluster.layout import Layout
from pipelines.loading.draw import rescaled
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.storage.folder import Folder
from tests.boxes import made
from tests.runners import in_this_process, in_two_processes, one_thread
from vgg import transfer
from vgg.testing import scoring
from vgg.transfer import FeaturesOptions
from vgg.transferring import feature_file
from vgg.transferring.combining import combined
from vgg.transferring.feature_file import FeatureFile, Features
from vgg.transferring.provenance import FeatureProvenance

SECOND_BLOCK = "00000008.arrow"


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Blocks of 8 images, so that a small set has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BLOCK", 8)
        yield


@pytest.fixture(scope="module")
def another(boxed, tmp_path_factory):
    """A run of another classifier."""
    recipe = made.classifier_recipe(2)
    wider = replace(recipe, model=replace(recipe.model, width=0.25))
    return made.train_alone("digits", boxed, tmp_path_factory.mktemp("another"), wider)


def options(data, out, *nets, **changes):
    return FeaturesOptions(tuple(map(str, nets)), str(data), str(out), **{"split": ("val",), **changes})


def extract(data, out, *nets, runner=in_this_process, **changes):
    """All features of the split val, and their folder."""
    folder = transfer.features(options(data, out, *nets, **changes), runner)
    return FeatureFile(folder, "val.arrow").all(), folder


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.arrow"))}


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """torchvision's vgg16 for crops of 64 pixels at random weights, and its file."""
    torch.manual_seed(0)
    net = torchvision.models.vgg16(num_classes=3).eval()
    net.classifier[0] = torch.nn.Linear(512 * 2 * 2, 4096)
    file = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(net.state_dict(), file)
    return net, file


def by_hand(net, data, scale, region="image"):
    """[N, F]: torchvision's layers on PIL's pixels, of the image or what its box shows, the classifier as
    convolutions, image and mirror image."""
    shards = Shards(data, read_manifest(data), "val")
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    fc6, fc7 = net.classifier[0], net.classifier[3]
    rows = []
    for i in range(len(shards)):
        image = Image.open(io.BytesIO(shards.encoded(i).tobytes())).convert("RGB")
        if region == "box":
            (box,) = shards.boxes(i)
            image = image.crop(box[:4])
        lengths = rescaled(np.array([image.height]), np.array([image.width]), np.array([scale]))
        height, width = (int(length[0]) for length in lengths)
        pixels_HWC = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
        image_CHW = normalise(torch.from_numpy(pixels_HWC).permute(2, 0, 1))
        of_image = []
        for shown in (image_CHW, image_CHW.flip(2)):
            maps = net.features(shown[None])
            hidden = relu(conv2d(maps, fc6.weight.view(4096, 512, 2, 2), fc6.bias))
            hidden = relu(conv2d(hidden, fc7.weight[:, :, None, None], fc7.bias))
            assert scale == 64 or hidden.shape[2] * hidden.shape[3] > 1
            of_image.append(hidden[0].double().mean((1, 2)))
        rows.append(((of_image[0] + of_image[1]) / 2).numpy())
    return np.stack(rows)


def unit(rows):
    return rows / np.sqrt((rows**2).sum(1, keepdims=True))


@torch.no_grad()
def test_torchvisions_net_by_hand(vgg16, tmp_path):
    net, file = vgg16
    few = made.make(tmp_path, {"train": 2, "val": 4})
    one, two = by_hand(net, few, 64), by_hand(net, few, 96)
    expected = {"mean": unit((one + two) / 2), "stack": unit(np.concatenate([one, two], 1))}
    for combine, expected_NF in expected.items():
        found, _ = extract(few, tmp_path / "out", file, scales=(64, 96), combine=combine)
        assert found.features_NF.dtype == np.float32
        # Pixels are rounded otherwise than PIL's; the descriptors of different images lie further apart.
        apart = np.linalg.norm(expected_NF[0] - expected_NF[1])
        assert np.linalg.norm(found.features_NF - expected_NF, axis=1).max() < 0.02 * apart
    shards = Shards(few, read_manifest(few), "val")
    assert found.keys == tuple(shards.key(i) for i in range(4))
    assert found.labels == tuple((label,) for label in shards.labels_N.tolist())


@torch.no_grad()
def test_image_and_box_by_hand(vgg16, tmp_path):
    """The descriptor of the image, then that of what its box shows, as an image of its own."""
    net, file = vgg16
    few = made.make(tmp_path, {"train": 2, "val": 4})
    by_region = {
        region: unit((by_hand(net, few, 64, region) + by_hand(net, few, 96, region)) / 2)
        for region in ("image", "box")
    }
    expected = {("box",): by_region["box"], ("box", "image"): np.hstack(list(by_region.values())) / np.sqrt(2)}
    for regions, expected_NF in expected.items():
        found, folder = extract(few, tmp_path / "out", file, scales=(64, 96), regions=regions)
        assert found.features_NF.shape == expected_NF.shape == (4, 4096 * len(regions))
        # A box is enlarged six times, where the rounding of pixels weighs more.
        apart = np.linalg.norm(expected_NF[0] - expected_NF[1])
        assert np.linalg.norm(found.features_NF - expected_NF, axis=1).max() < 0.05 * apart
        assert FeatureFile(folder, "val.arrow").provenance.regions == tuple(sorted(regions, reverse=True))


def test_provenance_tells_regions_apart(boxed, classifier, tmp_path):
    _, folder = extract(boxed, tmp_path, classifier)
    whole = FeatureFile(folder, "val.arrow").provenance
    both = replace(whole, regions=("image", "box"))
    assert "regions" not in whole.to_json()
    for provenance in (whole, both):
        assert FeatureProvenance.from_json(json.loads(json.dumps(provenance.to_json()))) == provenance
    assert len({each.identity for each in (whole, both)}) == 2
    assert len({each.numbers_identity for each in (whole, both, replace(whole, regions=("box",)))}) == 3
    assert "image+box" in both.name


def test_the_same_bits_on_one_and_two_processes(boxed, classifier, another, tmp_path):
    with one_thread():
        extract(boxed, tmp_path / "one", classifier, another, scales=(36, 72))
    extract(boxed, tmp_path / "two", classifier, another, scales=(36, 72), runner=in_two_processes)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len(one) == 2 * 2 * 3 + 1
    assert one == two


def test_interrupted_and_resumed(boxed, classifier, tmp_path, capsys):
    """Only what is missing or damaged is computed again, and every file has the same bytes."""
    whole, _ = extract(boxed, tmp_path / "whole", classifier, scales=(36, 72))
    computed = []

    def breaks(make, job, tasks, layout):
        for task, found in list(in_this_process(make, job, tasks, layout))[:4]:
            computed.append((task.scale, task.first))
            yield task, found
        raise Failure("a worker died")

    def counts(make, job, tasks, layout):
        computed.extend((task.scale, task.first) for task in tasks)
        return in_this_process(make, job, tasks, layout)

    with pytest.raises(Failure, match="a worker died"):
        extract(boxed, tmp_path / "out", classifier, scales=(36, 72), runner=breaks)
    damaged = next((tmp_path / "out" / "parts").glob(f"*-36-*/{SECOND_BLOCK}"))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    found, _ = extract(boxed, tmp_path / "out", classifier, scales=(36, 72), runner=counts)
    assert computed[4:] == [(36, 8), (72, 8), (72, 16)]
    assert "computed again" in capsys.readouterr().out
    assert found.digest == whole.digest
    assert files(tmp_path / "out") == files(tmp_path / "whole")

    def refuse(*_):
        raise AssertionError("called without a task")

    extract(boxed, tmp_path / "out", classifier, scales=(72,), runner=refuse)
    extract(boxed, tmp_path / "out", classifier, scales=(72, 36), combine="stack", runner=refuse)


def test_several_nets_are_stacked_each_of_length_one(boxed, classifier, another, tmp_path):
    """In the order that they are named in."""
    of_one, _ = extract(boxed, tmp_path, classifier, scales=(36, 72), combine="stack")
    of_other, _ = extract(boxed, tmp_path, another, scales=(36, 72), combine="stack")
    of_both, folder = extract(boxed, tmp_path, classifier, another, scales=(36, 72), combine="stack")
    units = of_one.features_NF.shape[1]
    assert of_other.features_NF.shape[1] == 2 * units == 2 * 2 * 512
    np.testing.assert_allclose(of_both.features_NF[:, :units], of_one.features_NF / np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(of_both.features_NF[:, units:], of_other.features_NF / np.sqrt(2), rtol=1e-5)
    provenance = FeatureFile(folder, "val.arrow").provenance
    assert [net.scales for net in provenance.nets] == [(36, 72)] * 2
    assert provenance.combine == "stack"


def test_activations_that_are_all_zero_stay_so():
    found = combined([[np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)]], "mean")
    np.testing.assert_allclose(found, np.array([[0, 0], [0.6, 0.8]]), rtol=1e-6)


def test_the_default_scale_and_split_are_the_nets_and_all(boxed, classifier, tmp_path):
    folder = transfer.features(options(boxed, tmp_path, classifier, split=()), in_this_process)
    assert folder.names() == ["train.arrow", "val.arrow"]
    (net,) = FeatureFile(folder, "train.arrow").provenance.nets
    assert net.scales == (36,)
    assert FeatureFile(folder, "train.arrow").all().features_NF.shape == (70, 512)


class TestFiles:
    @pytest.fixture
    def stored(self, boxed, classifier, tmp_path):
        return extract(boxed, tmp_path, classifier)[1]

    def test_a_changed_number_is_found(self, stored):
        file = stored.local / "val.arrow"
        table = pa.ipc.open_file(file.read_bytes()).read_all()
        first = np.asarray(FeatureFile(stored, "val.arrow").all().features_NF[0])
        at = file.read_bytes().index(first.tobytes())
        changed = bytearray(file.read_bytes())
        changed[at] ^= 1
        file.write_bytes(bytes(changed))
        assert pa.ipc.open_file(bytes(changed)).read_all().num_rows == table.num_rows
        with pytest.raises(UserError, match=r"val\.arrow .*SHA-256 is not the one"):
            FeatureFile(stored, "val.arrow").all()

    def test_a_lost_block_is_found(self, stored):
        reader = pa.ipc.open_file((stored.local / "val.arrow").read_bytes())
        with pa.ipc.new_file(str(stored.local / "val.arrow"), reader.schema) as writer:
            for i in range(2):
                found = reader.get_batch_with_custom_metadata(i)
                writer.write_batch(found.batch, custom_metadata=found.custom_metadata)
        with pytest.raises(UserError, match="16 of 21 images"):
            FeatureFile(stored, "val.arrow").all()

    @pytest.mark.parametrize("content", [b"", b"junk" * 100])
    def test_what_is_none_is_refused(self, stored, content):
        (stored.local / "val.arrow").write_bytes(content)
        with pytest.raises(UserError, match=r"val\.arrow holds no features, or is damaged"):
            FeatureFile(stored, "val.arrow")

    def test_numbers_that_are_not_finite_are_not_saved(self, stored, tmp_path):
        provenance = FeatureFile(stored, "val.arrow").provenance
        block = Features(("a", "b"), ((0,), (1,)), ((), ()), np.array([[1, 2], [np.inf, 0]], np.float32))
        with pytest.raises(Failure, match="activations of b are not finite"):
            feature_file.write(Folder(str(tmp_path / "x")), "val.arrow", provenance, 2, 2, [block])
        assert not list((tmp_path / "x").glob("*"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"scales": (16,)}, "--scales 16 is smaller than the crop"),
        ({"scales": (36, 36)}, "--scales 36,36 names a scale twice"),
        ({"regions": ()}, "--regions must be image, box, or both"),
        ({"regions": ("box", "box")}, "--regions must be image, box, or both"),
        ({"regions": ("image", "box")}, "3 of 21 images of split val have no box of their own"),
        ({"split": ("test",)}, "--split test must be one of train, val"),
        ({"layout": Layout(workers=0)}, "--layout.workers"),
        ({"nets": ()}, "NETS must be at least one net"),
        ({"nets": ("/nowhere",)}, "/nowhere"),
    ],
)
def test_mistakes(boxed, classifier, tmp_path, changes, match):
    refused = replace(options(boxed, tmp_path / "out", classifier), **changes)
    with pytest.raises(UserError, match=match):
        transfer.features(refused)
    assert not (tmp_path / "out").exists()


def test_one_net_named_twice_and_no_folder(boxed, classifier, another, tmp_path):
    with pytest.raises(UserError, match="are the same net"):
        transfer.features(options(boxed, tmp_path / "out", classifier, classifier))
    with pytest.raises(UserError, match="--out is missing"):
        transfer.features(options(boxed, "", classifier, another))
    with pytest.raises(UserError, match=r"--out .* lies in"):
        transfer.features(options(boxed, boxed / "features", classifier))
