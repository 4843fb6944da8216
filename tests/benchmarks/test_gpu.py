"""The GPU benchmark: run whole on the CPU at a small size, and its arithmetic against published figures."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from benchmarks.agreement import compare, inputs, starting_state, update
from benchmarks.gpu import parse
from benchmarks.layouts import layouts
from benchmarks.roofline import least_step_seconds
from tests.conftest import ROOT
from vgg.net.architecture import Architecture
from vgg.net.module import VGG
from vgg.training.dropout import dropout_masks

SMALL = ["--device=cpu", "--side=32", "--batch=4", "--width=0.125", "--round-seconds=0.05"]
# What a machine with torch alone lacks: the import system refuses a module that is None.
ABSENT = "ray nvidia.dali mlflow tyro rich pyarrow safetensors sklearn matplotlib torchmetrics PIL torchvision"


def run(command, *flags, **environment):
    return subprocess.run(
        [*command, *flags],
        cwd=ROOT,
        # One thread: on busy cores, threads that wait for each other take many times longer.
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def gpu_sh(*flags):
    return run(["bash", "benchmarks/gpu.sh"], *flags, PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")


def test_whole_run_with_torch_alone(tmp_path):
    out = tmp_path / "r.json"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT.split()!r}));"
        "import importlib.util; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torchvision' else find(name, *a);"
        "from benchmarks.gpu import main; sys.exit(main(sys.argv[1:]))"
    )
    modes = ["eager contiguous", "eager channels_last"]
    flags = [*SMALL, f"--out={out}", "--micro-batch=3", "--configurations", "A-LRN", "--modes", *modes]
    done = run([sys.executable, "-c", code], *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["finished"]
    assert found["failed"] == []
    assert found["machine"]["torch"] == torch.__version__
    assert found["settings"]["cudnn_tf32"] is found["settings"]["matmul_tf32"] is False
    assert [each["configuration"] for each in found["agreement"]] == ["A-LRN"]
    for each in found["agreement"]:
        assert each["agrees"]
        # bf16 keeps 8 bits: scores of some ten layers are off by about a hundredth.
        assert each["fp32"]["scores"] < 1e-5 < 1e-3 < each["bf16"]["scores"] < 0.1
    assert {(each["configuration"], each["mode"]) for each in found["training"]} == {
        ("A-LRN", mode) for mode in modes
    }
    for each in found["training"]:
        took = sorted(each["seconds_per_step"])[2]
        assert each["images_per_s"] == pytest.approx(4 / took)
        assert each["share_of_matrix_rate"] == pytest.approx(
            each["flop_per_image"] * 4 / took / found["ceilings"]["matrix_flop_per_s"]
        )
        # The bound counts the same FLOP at the same rate and more besides.
        assert each["share_of_matrix_rate"] < each["share_of_least_time"]
        # Untrained scores are noise around nothing: the mean loss over 4 rows is near ln(1000) or above.
        assert 6 < each["loss"] < 60
    why = {each["what"]: each["why"] for each in found["skipped"]}
    assert why == {
        "layouts A-LRN": "the fixed order needs a batch of at least 8",
        "torchvision A-LRN": "torchvision is not installed",
        "training A-LRN compiled channels_last": "not among --modes",
    }


def test_no_time_leaves_a_file_that_says_so(tmp_path):
    out = tmp_path / "r.json"
    done = gpu_sh(*SMALL, "--seconds=1", "--configurations", "A", f"--out={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["ceilings"]["copy_bytes_per_s"] > 0
    assert found["agreement"] == found["training"] == []
    skipped = {each["what"]: each["why"] for each in found["skipped"]}
    assert set(skipped) == {
        "agreement A",
        "torchvision A",
        "layouts A",
        "training A eager contiguous",
        "training A eager channels_last",
        "training A compiled channels_last",
    }
    assert "s left of 1" in skipped["training A eager contiguous"]


def test_without_a_gpu_it_says_so():
    done = gpu_sh()
    assert done.returncode == 2
    assert "sees no CUDA GPU here. A trial without one: benchmarks/gpu.sh --device cpu" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--side=100"], "--side 100 must be a multiple of 32"),
        (["--batch=8", "--micro-batch=9"], "--micro-batch must lie between 1 and --batch 8"),
        (["--seconds=0"], "--seconds must be at least 1"),
        (["--configurations", "F"], "invalid choice: 'F'"),
    ],
)
def test_bad_flags(flags, message, capsys):
    with pytest.raises(SystemExit) as left:
        parse(["--device=cpu", *flags])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_unwritable_result(tmp_path):
    (tmp_path / "file").touch()
    done = gpu_sh(*SMALL, f"--out={tmp_path}/file/r.json")
    assert done.returncode == 2
    assert f"--out {tmp_path}/file/r.json cannot be written" in done.stderr


def test_both_orders_take_turns_and_the_fixed_one_has_the_same_bits_twice():
    found = layouts(Architecture("A", 10, 32, 1 / 8), device=torch.device("cpu"), batch=8, seconds=0.05)
    assert found["same_weights_twice"]
    assert set(found["seconds_per_step"]) == set(found["host_seconds_per_step"]) == {"ddp", "fixed-order"}
    assert len(found["seconds_per_step"]["ddp"]) == len(found["seconds_per_step"]["fixed-order"]) == 5
    assert found["fixed_order_times_ddp"] > 0
    assert not torch.are_deterministic_algorithms_enabled()


class TestAgreement:
    ARCHITECTURE = Architecture("A", 10, 32, 1 / 8)

    def update(self, dtype=torch.float32):
        return update(self.ARCHITECTURE, 4, torch.device("cpu"), dtype, torch.channels_last)

    def test_gradients_are_autograds(self):
        """Without the training's step: float64, cross-entropy's mean, masks applied by forward()."""
        net = VGG(self.ARCHITECTURE)
        net.load_state_dict(starting_state(self.ARCHITECTURE))
        net.double()
        images_BCHW, labels_B = inputs(self.ARCHITECTURE, 4, torch.device("cpu"))
        masks = dropout_masks(0, 0, range(4), net.hidden, 0.5, device=torch.device("cpu"), dtype=torch.float64)
        loss = F.cross_entropy(net(images_BCHW.double(), masks).flatten(1), labels_B)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        found = self.update()
        assert found.loss == pytest.approx(loss.item(), rel=1e-5)
        for (name, _), gradient in zip(net.named_parameters(), gradients, strict=True):
            torch.testing.assert_close(found.gradients[name].double(), gradient, rtol=1e-3, atol=1e-4)

    def test_one_wrong_gradient_is_found(self):
        reference = self.update()
        for spoil, least in ((torch.neg, 1.99), (lambda g: g * float("nan"), float("nan"))):
            wrong = copy.deepcopy(reference)
            wrong.gradients["conv4_1.weight"] = spoil(wrong.gradients["conv4_1.weight"])
            found = compare(wrong, reference)
            assert found["worst_gradient_of"] == "conv4_1.weight"
            assert not found["worst_gradient"] < least


@pytest.mark.parametrize(("configuration", "images_per_s"), [("A", 16190), ("D", 8099), ("E", 6443)])
def test_least_time_agrees_with_another_model_of_it(configuration, images_per_s):
    """Images/s of perfect fusion on an H200 with these ceilings, by a model made apart from this one."""
    seconds = least_step_seconds(Architecture(configuration), 256, flop_per_s=790e12, bytes_per_s=4.3e12)
    assert 256 / seconds == pytest.approx(images_per_s, rel=0.03)
