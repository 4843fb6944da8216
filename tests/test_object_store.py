"""Checkpoints on a real S3 server."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from vgg import checkpoint
from vgg.folder import Folder


def low_port() -> int:
    """A free port below 50,000: the server adds 10,000 for a second one."""
    for port in range(21_000 + 7 * (time.time_ns() % 3000), 50_000, 13):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """URI of a folder in an empty bucket of a server on loopback."""
    identity = {"credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": ["Admin"]}
    (tmp_path / "s3.json").write_text(json.dumps({"identities": [{"name": "test", **identity}]}))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    master, volume, filer, port = (low_port() for _ in range(4))
    options = ["-dir", tmp_path, "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-volume.max", 20]
    options += ["-master.port", master, "-volume.port", volume, "-filer.port", filer]
    options += ["-master.volumeSizeLimitMB", 64, "-s3", "-s3.port", port, "-s3.config", tmp_path / "s3.json"]
    weed = [str(Path(sys.executable).with_name("weed")), "server", *map(str, options)]
    with (tmp_path / "weed.log").open("wb") as log:
        server = subprocess.Popen(weed, stdout=log, stderr=subprocess.STDOUT)
    try:
        once = fs.AwsStandardS3RetryStrategy(max_attempts=1)
        client = fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
            retry_strategy=once,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                client.create_dir("bucket")
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "weed.log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.3)
        yield f"s3://bucket/run?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        server.kill()
        server.wait()


def test_checkpoints_on_an_object_store(bucket):
    run = Folder(bucket)
    assert run.local is None
    for step, best in [(1, True), (2, False), (3, True), (4, False)]:
        weights = {"w": torch.full((100, 100), float(step))}
        state = checkpoint.State(step, weights, {}, torch.zeros(step), {"validations": []})
        checkpoint.write(run, state, best=best)
    assert run.names("checkpoints") == ["index.json", "step-00000003", "step-00000004"]
    newest, passed = checkpoint.newest(run)
    assert newest is not None
    assert (newest.step, passed) == (4, [])
    assert torch.equal(checkpoint.find(bucket).model["w"], torch.full((100, 100), 3.0))
    assert run.read_json("checkpoints/index.json")["last"] == "step-00000004"
