"""Checkpoints on a real S3 server."""

import pytest
import torch

from pipelines.storage.folder import Folder
from vgg.weights import checkpoint, retention


def test_checkpoints_on_an_object_store(object_store):
    bucket = object_store.uri("run")
    run = Folder(bucket)
    assert run.local is None
    for step, best in [(1, True), (2, False), (3, True), (4, False)]:
        weights = {"w": torch.full((100, 100), float(step))}
        state = checkpoint.Checkpoint(step, weights, {}, torch.zeros(step), {"validations": []})
        retention.write(run, state, best=best)
    assert run.names("checkpoints") == ["index.json", "step-00000003", "step-00000004"]
    newest, skipped = retention.read_newest(run)
    assert newest is not None
    assert (newest.step, skipped) == (4, [])
    assert torch.equal(retention.open_checkpoint(bucket).model["w"], torch.full((100, 100), 3.0))
    assert run.read_json("checkpoints/index.json")["last"] == "step-00000004"


@pytest.mark.parametrize("size", [100, 30 * 2**20])
def test_an_exception_publishes_nothing(object_store, size):
    """Less and more than a part of an upload."""
    folder = Folder(object_store.uri(f"half{size}"))

    def interrupted(name):
        with folder.writing(name) as stream:
            stream.write(bytes(size))
            raise KeyboardInterrupt

    folder.write("old", b"complete")
    for name in ("new", "old"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(name)
    assert folder.names() == ["old"]
    assert folder.read("old") == b"complete"
    with folder.writing("new") as stream:
        stream.write(bytes(size))
    assert folder.size("new") == size
    folder.write("empty", b"")
    assert folder.read("empty") == b""
