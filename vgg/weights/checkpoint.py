"""What a training's state is, and how it is kept: whole, verified by digest, last and best.

A checkpoint is a folder `checkpoints/step-00001000` of safetensors and JSON files. Its `manifest.json`, written
last, holds the digest of every file; without it the folder does not count. `checkpoints/index.json` names
the last and the best.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save

from pipelines.storage.folder import Folder


@dataclass(frozen=True)
class Checkpoint:
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


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def write(run: Folder, state: Checkpoint, *, best: bool) -> None:
    """Save a checkpoint below the run's folder, read it back, name it, and delete those no longer named."""
    name = checkpoint_name(state.step)
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


def read(folder: Folder) -> Checkpoint:
    """A checkpoint of its own folder. ValueError where there is none, DamagedCheckpoint where bytes differ."""
    if not folder.exists("manifest.json"):
        raise ValueError(f"{folder.uri} holds no checkpoint (no manifest.json)")
    files = _verified(folder, folder.read_json("manifest.json"))
    about = json.loads(files["state.json"])
    optimizer = load(files["training.safetensors"])
    losses = optimizer.pop("losses")
    return Checkpoint(about.pop("step"), load(files["model.safetensors"]), optimizer, losses, about)


def read_index(run: Folder) -> dict[str, str]:
    """Names of the last and the best checkpoint of a run's folder; empty where it has none."""
    if not run.exists("checkpoints/index.json"):
        return {}
    return run.read_json("checkpoints/index.json")


def newest(run: Folder) -> tuple[Checkpoint | None, list[str]]:
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


def find(uri: str) -> Checkpoint:
    """The checkpoint at `uri`: a checkpoint's folder, or a run's, of which the best is taken."""
    folder = Folder(uri)
    if folder.exists("manifest.json"):
        return read(folder)
    index = read_index(folder)
    if not index:
        raise ValueError(f"{uri} is neither a checkpoint nor a run's folder with checkpoints")
    return read(folder.child(f"checkpoints/{index['best']}"))


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
