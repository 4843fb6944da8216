"""Containers of the manifests as plain processes: the same commands, variables, names and ports.

A stack has a network namespace whose hosts file gives every Service's name to loopback, so `postgres:5432` is
what it is in the cluster. A process gets the variables of its container and none of ours, and its own /tmp.
Paths that this machine does not have (/data, /etc/mlflow) are replaced by folders of the stack.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT
from tests.k8s.manifests import Object, find, load

BIN = Path(sys.executable).parent


class Stack:
    """A context manager; what it started ends with it, and its folder goes."""

    def __init__(self, objects: list[Object], secrets: str) -> None:
        self.objects = objects
        self.secrets: dict[str, dict[str, str]] = {  # of both namespaces: no two have one name and other values
            o["metadata"]["name"]: o["stringData"] for o in load(secrets)
        }
        services = [o["metadata"] for o in objects if o["kind"] == "Service"]
        self._names = [name for s in services for name in (s["name"], f"{s['name']}.{s['namespace']}")]
        self.folder = Path(tempfile.mkdtemp(prefix="vgg-stack-", dir="/var/tmp"))
        self.folder.chmod(0o755)  # PostgreSQL's user passes through
        self._namespace = f"vgg-stack-{os.getpid()}"
        self._hosts = Path("/etc/netns") / self._namespace
        self._paths = {
            path: str(self._mkdir(path)) for path in ("/data", "/etc/s3", "/etc/mlflow", "/store", "/backup")
        }
        self._paths["/app/add_user.py"] = str(Path(__file__).parents[2] / "k8s/mlflow/add_user.py")
        self._processes: list[subprocess.Popen[bytes]] = []
        for name, key, path in (
            ("s3-config", "s3.json", "/etc/s3"),
            ("mlflow-server", "basic_auth.ini", "/etc/mlflow"),
        ):
            (Path(self._paths[path]) / key).write_text(self.secrets[name][key])

    def __enter__(self) -> "Stack":
        try:
            self._hosts.mkdir(parents=True)
            (self._hosts / "hosts").write_text(f"127.0.0.1 localhost {' '.join(self._names)}\n")
            subprocess.run(["ip", "netns", "add", self._namespace], check=True)
            subprocess.run(["ip", "-n", self._namespace, "link", "set", "lo", "up"], check=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()  # of its process namespace: everything in it ends
            process.wait()
        subprocess.run(["ip", "netns", "delete", self._namespace], check=False)
        shutil.rmtree(self._hosts, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, container: Object) -> dict[str, str]:
        """Variables of a container, as the kubelet resolves them."""
        env: dict[str, str] = {}
        for source in container.get("envFrom") or []:
            env |= find(self.objects, "ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in container.get("env") or []:
            if "value" in variable:
                env[variable["name"]] = variable["value"]
            else:
                reference = variable["valueFrom"]["secretKeyRef"]
                env[variable["name"]] = self.secrets[reference["name"]][reference["key"]]
        return {name: self.here(value) for name, value in env.items()}

    def command(self, container: Object) -> list[str]:
        """Command and arguments of a container."""
        return [self.here(word) for word in [*container["command"], *container.get("args", [])]]

    def start(
        self, name: str, command: list[str], env: dict[str, str], user: str = "root"
    ) -> subprocess.Popen[bytes]:
        """Start a process; what it says goes to `name`.log."""
        tmp = self._mkdir(f"{name}-tmp")
        shutil.chown(tmp, user)
        as_user = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        inside = ["ip", "netns", "exec", self._namespace]
        inside += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        script = 'mount --rbind "$1" /tmp; shift; cd /tmp; exec "$@"'
        if ROOT.is_relative_to("/tmp"):  # a clone that lies there must not be hidden
            seen = tmp / ROOT.relative_to("/tmp")
            seen.mkdir(parents=True, exist_ok=True)
            script = f"mount --bind {shlex.quote(str(ROOT))} {shlex.quote(str(seen))}; {script}"
        inside += ["bash", "-ec", script, "container", str(tmp), *as_user]
        variables = {"PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **env}
        inside += ["env", "-i", *(f"{key}={value}" for key, value in variables.items()), *command]
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process

    def run(
        self, name: str, command: list[str], env: dict[str, str], user: str = "root", seconds: float = 900
    ) -> str:
        """Run a process to its end; what it said. AssertionError with that where it fails."""
        code = self.start(name, command, env, user).wait(timeout=seconds)
        said = self.log(name).read_text(errors="replace")
        assert code == 0, f"{name} ended with {code}:\n{said[-4000:]}"
        return said

    def log(self, name: str) -> Path:
        """File with what a process said."""
        return self.folder / f"{name}.log"

    def shared(self, path: str) -> Path:
        """Where a path of the containers lies on this machine."""
        return Path(self.here(path))

    def _mkdir(self, path: str) -> Path:
        folder = self.folder / path.strip("/").replace("/", "-")
        folder.mkdir(exist_ok=True)
        return folder

    def here(self, text: str) -> str:
        """The text with the containers' paths replaced by those of this machine."""
        for path, here in self._paths.items():
            text = re.sub(rf"(?<![\w/.-]){path}(?=$|[/\s])", here, text)
        return text
