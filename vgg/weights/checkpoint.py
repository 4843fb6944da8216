"""Checkpoints of a training: complete, and verified by SHA-256 before anything refers to them.

A checkpoint is a folder `checkpoints/step-00001000` of safetensors and JSON files. Its `manifest.json`, written
last, holds the digest of every file; a folder without it is ignored. See `vgg.weights.retention` for which are
kept.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.weights.safetensors_file import pieces

FORMAT = 1
FILES = ("model.safetensors", "training.safetensors", "state.json")


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
    """A checkpoint with a file that is missing, unreadable or other than it was written."""


class NoCheckpoint(UserError):
    """A folder without a checkpoint, or with one that was not finished."""


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def write_files(folder: Folder, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's files, read them back, then write its manifest."""
    state = {"step": checkpoint.step, **checkpoint.metadata}
    files = {
        "model.safetensors": pieces(checkpoint.model),
        "training.safetensors": pieces({**checkpoint.optimizer, "losses": checkpoint.losses}),
        "state.json": [memoryview(json.dumps(state, allow_nan=False).encode())],
    }
    manifest = {}
    for file, data in files.items():
        digest = hashlib.sha256()
        for piece in data:
            digest.update(piece)
        folder.write(file, data)
        manifest[file] = {"bytes": sum(map(len, data)), "sha256": digest.hexdigest()}
    for file, written in manifest.items():
        if folder.sha256(file) != written["sha256"]:
            raise _damaged(folder, file)
    folder.write_json("manifest.json", {"format": FORMAT, **manifest})


def read(folder: Folder) -> Checkpoint:
    """The checkpoint in this folder. NoCheckpoint if there is none, DamagedCheckpoint if it is damaged."""
    digests = _read_digests(folder)
    files = {name: _read_verified(folder, name, digests) for name in FILES}
    try:
        metadata = json.loads(files["state.json"])
        optimizer = load(files["training.safetensors"])
        losses = optimizer.pop("losses")
        return Checkpoint(metadata.pop("step"), load(files["model.safetensors"]), optimizer, losses, metadata)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{folder.described} is no checkpoint of this project: {error!r}") from error


def read_metadata(folder: Folder) -> dict[str, Any]:
    """The JSON of a checkpoint with its `step`, without the tensors. Raises as `read`."""
    try:
        found = json.loads(_read_verified(folder, "state.json", _read_digests(folder)))
        return {"step": int(found["step"]), **found}
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DamagedCheckpoint):
            raise
        raise DamagedCheckpoint(f"{folder.described}/state.json is damaged: {error!r}") from error


def _read_digests(folder: Folder) -> dict[str, str]:
    """File -> SHA-256, as the manifest says."""
    if not folder.exists("manifest.json"):
        raise NoCheckpoint(f"{folder.described} holds no checkpoint (no manifest.json)")
    text = folder.read("manifest.json")
    try:
        manifest = json.loads(text)
        found = manifest.get("format", FORMAT)
        if found == FORMAT:
            return {name: str(manifest[name]["sha256"]) for name in FILES}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{folder.described}/manifest.json is damaged: {error!r}") from error
    raise UserError(f"{folder.described} has format {found!r}, this version reads {FORMAT}")


def _read_verified(folder: Folder, name: str, digests: dict[str, str]) -> bytes:
    try:
        data = folder.read(name)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{folder.described}: {name} is missing") from error
    if hashlib.sha256(data).hexdigest() != digests[name]:
        raise _damaged(folder, name)
    return data


def _damaged(folder: Folder, name: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{folder.described}/{name} is damaged: its SHA-256 is not the manifest's")
