"""A real S3 server on loopback, which can be killed and started again."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from pyarrow import fs


def low_port() -> int:
    """A free port below 50,000: the server adds 10,000 for a second one."""
    for port in range(21_000 + 7 * (time.time_ns() % 3000), 50_000, 13):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


class ObjectStore:
    """SeaweedFS with a bucket called `bucket`; a context manager. Clients need KEYS in their environment."""

    def __init__(self, folder: Path, volumes: int = 20) -> None:
        """`volumes`: of 64 MB each that it may fill; what is deleted counts until it tidies up."""
        self._folder = folder
        identity = {"credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": ["Admin"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [{"name": "test", **identity}]}))
        master, volume, filer, self.port = (low_port() for _ in range(4))
        options = ["-dir", folder, "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-volume.max", volumes]
        options += ["-master.port", master, "-volume.port", volume, "-filer.port", filer]
        options += [
            "-master.volumeSizeLimitMB",
            64,
            "-s3",
            "-s3.port.iceberg",
            0,
            "-s3.port.lance",
            0,
            "-s3.port",
            self.port,
            "-s3.config",
            folder / "s3.json",
        ]
        self._command = [str(Path(sys.executable).with_name("weed")), "server", *map(str, options)]
        self._log = folder / "weed.log"

    def __enter__(self) -> "ObjectStore":
        self.start()
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server, without waiting for it."""
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder
            )

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()
        self._server.wait()

    def wait(self) -> None:
        """Until it answers and the bucket is there."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.client().create_dir("bucket")
                return
            except OSError:
                assert self._server.poll() is None, self._log.read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.3)

    def client(self) -> fs.S3FileSystem:
        """A file system of one attempt a request."""
        return fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            region="us-east-1",
            access_key=KEYS["AWS_ACCESS_KEY_ID"],
            secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            allow_bucket_creation=True,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        )

    def uri(self, name: str) -> str:
        """Of a folder in the bucket."""
        return f"s3://bucket/{name}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
