"""What a training's state is, and how it is kept: whole, verified by digest, last and best.

A checkpoint is a folder `checkpoints/step-00001000` of safetensors and JSON files. Its `manifest.json`, written
last, holds the digest of every file; without it the folder does not count. `checkpoints/index.json` names
the last and the best.
"""

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from pipelines.folder import Folder


@dataclass(frozen=True)
class State:
    """A training after `step` updates. Every tensor lies on the CPU, contiguous."""

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    """`<parameter index>.<buffer>`, e.g. `0.momentum_buffer`."""
    losses: torch.Tensor
    """Mean loss of each step so far, in nats, float32."""
    about: dict[str, Any]
    """JSON: recipe, seed, data, schedule, validations."""


class DamagedCheckpoint(ValueError):
    """A checkpoint whose bytes are not those that were written."""


def name_of(step: int) -> str:
    """Folder name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def write(run: Folder, state: State, *, best: bool) -> None:
    """Save a checkpoint below the run's folder, read it back, name it, and delete those no longer named."""
    name = name_of(state.step)
    files = {
        "model.safetensors": save(state.model),
        "training.safetensors": save({**state.optimizer, "losses": state.losses}),
        "state.json": json.dumps({"step": state.step, **state.about}, allow_nan=False).encode(),
    }
    folder = run.child(f"checkpoints/{name}")
    manifest = {}
    for file, data in files.items():
        folder.write(file, data)
        manifest[file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _verified(folder, manifest)
    folder.write_json("manifest.json", manifest)
    index = read_index(run)
    index = {"last": name, "best": name if best else index.get("best", name)}
    run.write_json("checkpoints/index.json", index)
    for other in run.names("checkpoints"):
        if other.startswith("step-") and other not in index.values():
            run.delete(f"checkpoints/{other}")


def read(folder: Folder) -> State:
    """A checkpoint of its own folder. ValueError where there is none, DamagedCheckpoint where bytes differ."""
    if not folder.exists("manifest.json"):
        raise ValueError(f"{folder.uri} holds no checkpoint (no manifest.json)")
    files = _verified(folder, folder.read_json("manifest.json"))
    about = json.loads(files["state.json"])
    optimizer = load(files["training.safetensors"])
    losses = optimizer.pop("losses")
    return State(about.pop("step"), load(files["model.safetensors"]), optimizer, losses, about)


def read_index(run: Folder) -> dict[str, str]:
    """Names of the last and the best checkpoint of a run's folder; empty where it has none."""
    if not run.exists("checkpoints/index.json"):
        return {}
    return run.read_json("checkpoints/index.json")


def newest(run: Folder) -> tuple[State | None, list[str]]:
    """The newest sound checkpoint of a run, and why each newer one was passed over."""
    passed: list[str] = []
    names = [name for name in run.names("checkpoints") if name.startswith("step-")]
    for name in sorted(names, reverse=True):
        folder = run.child(f"checkpoints/{name}")
        if not folder.exists("manifest.json"):
            continue  # cut off while it was written, before anything named it
        try:
            return read(folder), passed
        except DamagedCheckpoint as error:
            passed.append(str(error))
    return None, passed


def find(uri: str) -> State:
    """The checkpoint at `uri`: a checkpoint's folder, or a run's, of which the best is taken."""
    folder = Folder(uri)
    if folder.exists("manifest.json"):
        return read(folder)
    index = read_index(folder)
    if not index:
        raise ValueError(f"{uri} is neither a checkpoint nor a run's folder with checkpoints")
    return read(folder.child(f"checkpoints/{index['best']}"))


def weights_sha256(parameters: dict[str, torch.Tensor]) -> str:
    """Digest over the values of all parameters, float32 little-endian, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(parameters[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def model_state(net: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the parameters on the CPU, which later steps leave alone."""
    return {name: _kept(value) for name, value in net.state_dict().items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """A copy of the optimizer's buffers, flattened."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": _kept(value) for i, each in state.items() for key, value in each.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
    """Put the buffers back, each in its parameter's device and memory format."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in saved.items():
        i, key = name.split(".", 1)
        parameter = parameters[int(i)]
        like = parameter if value.shape == parameter.shape else value
        buffer = torch.empty_like(like, device=parameter.device, requires_grad=False)
        optimizer.state[parameter][key] = buffer.copy_(value)


class Writer:
    """Writes checkpoints on a thread of its own, one at a time; an error surfaces at the next call."""

    def __init__(self, run: Folder) -> None:
        self._run = run
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def submit(self, state: State, *, best: bool) -> None:
        """Start writing; waits for the one before, so that at most one copy of the state is held."""
        self.wait()
        self._writing = self._thread.submit(write, self._run, state, best=best)

    def wait(self) -> None:
        """Return when all that was submitted is on storage."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """Wait, then end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def _verified(folder: Folder, manifest: dict[str, Any]) -> dict[str, bytes]:
    files = {}
    for name, expected in manifest.items():
        try:
            files[name] = folder.read(name)
        except FileNotFoundError as error:
            raise DamagedCheckpoint(f"{folder.uri}: {name} is missing") from error
        if hashlib.sha256(files[name]).hexdigest() != expected["sha256"]:
            raise DamagedCheckpoint(f"{folder.uri}/{name} is damaged: its SHA-256 is not the manifest's")
    return files


def _kept(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
