"""Checkpoints of a training: complete, verified by SHA-256, the last and the best kept.

A checkpoint is a folder `checkpoints/step-00001000` of safetensors and JSON files. Its `manifest.json`, written
last, holds the digest of every file; a folder without it is ignored. `checkpoints/index.json` names the last
and the best.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save

from cli.errors import UserError
from pipelines.storage.folder import Folder


@dataclass(frozen=True)
class Checkpoint:
    """State of a training after `step` updates. All tensors are contiguous and on the CPU."""

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    """`<parameter index>.<buffer>`, e.g. `0.momentum_buffer`."""
    losses: torch.Tensor
    """Mean loss of each update so far, in nats, float32."""
    metadata: dict[str, Any]
    """JSON: recipe, seed, data, schedule, validations."""


class DamagedCheckpoint(UserError):
    """A checkpoint with a file that is missing or whose digest is wrong."""


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def write(run: Folder, checkpoint: Checkpoint, *, best: bool) -> None:
    """Save a checkpoint in the run's folder, verify it, enter it in the index, and delete those not in it."""
    name = checkpoint_name(checkpoint.step)
    state = {"step": checkpoint.step, **checkpoint.metadata}
    files = {
        "model.safetensors": save(checkpoint.model),
        "training.safetensors": save({**checkpoint.optimizer, "losses": checkpoint.losses}),
        "state.json": json.dumps(state, allow_nan=False).encode(),
    }
    folder = run.child(f"checkpoints/{name}")
    manifest = {}
    for file, data in files.items():
        folder.write(file, data)
        manifest[file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _read_verified(folder, manifest)
    folder.write_json("manifest.json", manifest)
    index = read_index(run)
    index = {"last": name, "best": name if best else index.get("best", name)}
    run.write_json("checkpoints/index.json", index)
    for other in run.names("checkpoints"):
        if other.startswith("step-") and other not in index.values():
            run.delete(f"checkpoints/{other}")


def read(folder: Folder) -> Checkpoint:
    """The checkpoint in this folder. UserError if there is none, DamagedCheckpoint if a digest is wrong."""
    if not folder.exists("manifest.json"):
        raise UserError(f"{folder.uri} holds no checkpoint (no manifest.json)")
    files = _read_verified(folder, folder.read_json("manifest.json"))
    metadata = json.loads(files["state.json"])
    optimizer = load(files["training.safetensors"])
    losses = optimizer.pop("losses")
    return Checkpoint(metadata.pop("step"), load(files["model.safetensors"]), optimizer, losses, metadata)


def read_index(run: Folder) -> dict[str, str]:
    """Names of the `last` and the `best` checkpoint of a run; empty if it has none."""
    if not run.exists("checkpoints/index.json"):
        return {}
    return run.read_json("checkpoints/index.json")


def read_newest(run: Folder) -> tuple[Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint of a run, and for each newer one the reason why it is skipped."""
    skipped: list[str] = []
    names = [name for name in run.names("checkpoints") if name.startswith("step-")]
    for name in sorted(names, reverse=True):
        folder = run.child(f"checkpoints/{name}")
        if not folder.exists("manifest.json"):
            continue  # interrupted while it was written: nothing refers to it
        try:
            return read(folder), skipped
        except DamagedCheckpoint as error:
            skipped.append(str(error))
    return None, skipped


def open_checkpoint(uri: str) -> Checkpoint:
    """The checkpoint at `uri`, which is a checkpoint's folder or a run's, whose best checkpoint is used.

    UserError if it is neither, DamagedCheckpoint if a digest is wrong.
    """
    folder = Folder(uri)
    if folder.exists("manifest.json"):
        return read(folder)
    index = read_index(folder)
    if not index:
        raise UserError(f"{uri} is neither a checkpoint nor a run's folder with checkpoints")
    return read(folder.child(f"checkpoints/{index['best']}"))


def _read_verified(folder: Folder, manifest: dict[str, Any]) -> dict[str, bytes]:
    files = {}
    for name, expected in manifest.items():
        try:
            files[name] = folder.read(name)
        except FileNotFoundError as error:
            raise DamagedCheckpoint(f"{folder.uri}: {name} is missing") from error
        if hashlib.sha256(files[name]).hexdigest() != expected["sha256"]:
            raise DamagedCheckpoint(f"{folder.uri}/{name} is damaged: its SHA-256 is not the manifest's")
    return files
