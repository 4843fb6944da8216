"""`sslrootcert=system` and psycopg's binary wheel: it connects with SSL_CERT_FILE as MLflow's image sets it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.k8s.manifests import K8S

TOOLS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
VARIABLE = "SSL_CERT_FILE"
CONNECT = """
import sys, psycopg
with psycopg.connect(sys.argv[1], connect_timeout=10) as connection:
    print(connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()[0])
"""


def test_image_names_the_certificates():
    """Of the package that the same Dockerfile installs."""
    text = (K8S / "mlflow/Dockerfile").read_text()
    assert re.search(rf"^ENV .*{VARIABLE}=/etc/ssl/certs/ca-certificates\.crt$", text, re.MULTILINE)
    assert "ca-certificates" in text.partition("ENV ")[0]
    example = (K8S / "overlays/paper/secrets.example.yaml").read_text()
    assert set(re.findall(r"postgresql://\S+\?(\S+)", example)) == {"sslmode=verify-full&sslrootcert=system"}


@pytest.fixture(scope="module")
def server():
    """PostgreSQL with TLS, and the certificate that its clients must trust: (port, certificate)."""
    if not TOOLS or os.getuid() != 0 or shutil.which("openssl") is None:
        pytest.skip("needs root, openssl and PostgreSQL: apt-get install postgresql openssl")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        key, certificate, data = folder / "server.key", folder / "server.crt", folder / "data"
        make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ]
        make += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(make, check=True, capture_output=True)
        data.mkdir()
        key.chmod(0o600)
        for path in (folder, key, certificate, data):
            shutil.chown(path, "postgres", "postgres")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        init = [
            *as_postgres,
            str(TOOLS[-1] / "initdb"),
            f"--pgdata={data}",
            "--auth=trust",
            "--username=mlflow",
        ]
        subprocess.run(init, check=True, capture_output=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = {"ssl": "on", "ssl_key_file": key, "ssl_cert_file": certificate, "fsync": "off"}
        options |= {"listen_addresses": "localhost", "unix_socket_directories": folder, "port": port}
        serve = [*as_postgres, str(TOOLS[-1] / "postgres"), "-D", str(data)]
        serve += [word for key_, value in options.items() for word in ("-c", f"{key_}={value}")]
        with subprocess.Popen(serve, stderr=subprocess.DEVNULL) as process:
            try:
                yield port, certificate
            finally:
                process.terminate()


def connect(port: int, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    uri = f"postgresql://mlflow@localhost:{port}/postgres?sslmode=verify-full&sslrootcert=system"
    env = {key: value for key, value in os.environ.items() if not key.startswith("SSL_")} | env
    command = [sys.executable, "-c", CONNECT, uri]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_connects_with_the_variable_only(server):
    port, certificate = server
    deadline = time.monotonic() + 60
    while (done := connect(port, {VARIABLE: str(certificate)})).returncode != 0:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.5)
    assert done.stdout.strip() == "True"
    without = connect(port, {})
    assert without.returncode != 0
    assert "certificate verify failed" in without.stderr
