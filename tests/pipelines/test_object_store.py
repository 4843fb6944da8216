"""Checkpoints on a real S3 server."""

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
