"""The demo's servers: which were stopped is told, and that none was."""

import json
import subprocess
import sys
from dataclasses import asdict

from cluster.processes import start_time
from demo.servers import MlflowServer, stop_servers


def test_servers_are_stopped_once(tmp_path, capsys):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        server = MlflowServer(process.pid, start_time(process.pid), "http://127.0.0.1:5000")
        (tmp_path / "mlflow.json").write_text(json.dumps(asdict(server)))
        stop_servers(tmp_path)
        assert not server.alive()
    assert capsys.readouterr().out == "the MLflow server is stopped\n"
    stop_servers(tmp_path)
    assert capsys.readouterr().out == "nothing of the demo runs\n"


def test_servers_that_have_ended_do_not_run(tmp_path, capsys):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        server = MlflowServer(process.pid, start_time(process.pid), "http://127.0.0.1:5000")
    node = {**asdict(server), "address": "127.0.0.1:1", "dashboard_url": "", "folder": str(tmp_path / "ray")}
    del node["url"]
    (tmp_path / "ray").mkdir()
    (tmp_path / "mlflow.json").write_text(json.dumps(asdict(server)))
    (tmp_path / "cluster.json").write_text(json.dumps({"node": node, "cpus": 2}))
    stop_servers(tmp_path)
    assert capsys.readouterr().out == "nothing of the demo runs\n"
    assert list(tmp_path.iterdir()) == []
