"""MLflow as local-cpu configures it: PostgreSQL, S3, login; a training, a large artifact, a page."""

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import needs_namespaces
from tests.k8s.conftest import needs_kustomize
from tests.k8s.manifests import K8S, cluster_spec, find, rendered
from tests.k8s.stack import BIN, Stack

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
CHROMIUM = shutil.which("chromium")
ARTIFACT_BYTES = 500 * 2**20

pytestmark = [
    needs_kustomize,
    needs_namespaces,
    pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is absent: apt-get install postgresql"),
]

CLIENT = """
import hashlib, json, os, sys, time, urllib.request, urllib.error
from mlflow import MlflowClient

def status(login, path, host=None):
    request = urllib.request.Request(os.environ["MLFLOW_TRACKING_URI"] + path)
    if login:
        import base64
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
    if host:
        request.add_header("Host", host)
    try:
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code

me = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
users = "/api/2.0/mlflow/users/get?username=admin"
listing = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=vgg"
seen = {
    "health": status(None, "/health"),
    "nobody": status(None, listing),
    "wrong password": status((me[0], "wrong"), listing),
    "trainer": status(me, listing),
    "trainer looks at admin": status(me, users),
    "another host": status(me, listing, "evil.example.com"),
}
client = MlflowClient()
experiment = client.get_experiment_by_name("vgg")
runs = client.search_runs([experiment.experiment_id])
seen["runs"] = [{"status": r.info.status, "name": r.info.run_name, "top1": r.data.metrics.get("val/top1"),
                 "tags": r.data.tags, "keys": sorted(r.data.metrics), "id": r.info.run_id,
                 "artifacts": sorted(a.path for a in client.list_artifacts(r.info.run_id))} for r in runs]
seen["location"] = experiment.artifact_location
seen["experiment"] = experiment.experiment_id

digest = hashlib.sha256()
with open("large.bin", "wb") as file:
    for _ in range(int(sys.argv[1]) // 2**20):
        block = os.urandom(2**20)
        digest.update(block)
        file.write(block)
run = client.create_run(experiment.experiment_id, run_name="large artifact").info.run_id
began = time.monotonic()
client.log_artifact(run, "large.bin")
seen["upload seconds"] = time.monotonic() - began
os.remove("large.bin")
began = time.monotonic()
back = client.download_artifacts(run, "large.bin", ".")
seen["download seconds"] = time.monotonic() - began
with open(back, "rb") as file:
    seen["same"] = hashlib.file_digest(file, "sha256").hexdigest() == digest.hexdigest()
seen["bytes"] = os.path.getsize(back)
os.remove(back)
client.set_terminated(run)
print("SEEN " + json.dumps(seen))
"""


def only_container(o):
    (container,) = o["spec"]["template"]["spec"]["containers"]
    return container


@pytest.fixture(scope="module")
def stack():
    """PostgreSQL, S3 and MLflow, started in the order and with the Jobs of the manifests."""
    objects = rendered("local-cpu")
    made = subprocess.run(["bash", str(K8S / "secrets.sh")], capture_output=True, text=True, check=True).stdout
    with Stack(objects, made) as stack:
        start_postgres(stack)
        weed = only_container(find(objects, "StatefulSet", "s3"))
        start = [
            word.replace(str(stack.shared("/data")), str(stack.shared("/store")))
            for word in stack.command(weed)
        ]
        stack.start("s3", start, stack.environment(weed))
        for job in ("s3-buckets", "mlflow-schema-3-17-2"):
            container = only_container(find(objects, "Job", job))
            retried(stack, job, stack.command(container), stack.environment(container))
        server = only_container(find(objects, "StatefulSet", "mlflow"))
        stack.start("mlflow", stack.command(server), stack.environment(server))
        users = only_container(find(objects, "Job", "mlflow-users"))
        retried(stack, "mlflow-users", stack.command(users), stack.environment(users))
        yield stack


def retried(stack: Stack, name: str, command: list[str], env: dict[str, str]) -> None:
    """A Job: again until it succeeds, as its backoffLimit says."""
    deadline = time.monotonic() + 300
    for attempt in itertools.count():
        try:
            stack.run(f"{name}-{attempt}", command, env)
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def start_postgres(stack: Stack) -> None:
    """What the official image's entrypoint does with these variables, by Debian's binaries."""
    container = only_container(find(stack.objects, "StatefulSet", "postgres"))
    env = {each["name"]: each["value"] for each in container["env"]}
    tools = POSTGRES[-1].parent
    data = stack.folder / "pgdata"
    data.mkdir()
    shutil.chown(data, "postgres")
    password = stack.folder / "password"
    password.write_text(stack.secrets["postgres"]["password"])
    shutil.chown(password, "postgres")
    options = [
        f"--username={env['POSTGRES_USER']}",
        f"--pwfile={password}",
        *env["POSTGRES_INITDB_ARGS"].split(),
    ]
    stack.run("initdb", [str(tools / "initdb"), f"--pgdata={data}", *options], {}, "postgres")
    serve = [str(tools / "postgres"), "-D", str(data), "-c", "unix_socket_directories=/tmp", "-c", "fsync=off"]
    stack.start("postgres", serve, {}, "postgres")
    login = {"PGPASSWORD": stack.secrets["postgres"]["password"]}
    create = [
        str(tools / "createdb"),
        "--host=postgres",
        f"--username={env['POSTGRES_USER']}",
        env["POSTGRES_DB"],
    ]
    retried(stack, "createdb", create, login)


@pytest.fixture(scope="module")
def seen(stack):
    """A training by the manifests' own entrypoint, then what a client with the trainings' login sees."""
    batch = rendered("local-cpu/job")
    head = cluster_spec(find(batch, "RayJob"))["headGroupSpec"]["template"]["spec"]
    (pack,) = head["initContainers"]
    project = {"PYTHONPATH": str(K8S.parent)}  # in the image it is installed
    stack.run("pack", stack.command(pack), stack.environment(pack) | project)
    entrypoint = find(batch, "RayJob")["spec"]["entrypoint"].split()
    env = stack.environment(head["containers"][0]) | project
    # Shorter and on one worker: the training is not what is tested. Then a retry, in a new cluster.
    for attempt, steps in (("first", 6), ("second", 10)):
        words = [stack.here(word) for word in entrypoint if "workers" not in word]
        stack.run(f"train-{attempt}", [*words, f"--train.steps={steps}"], env)
    said = stack.run("client", [str(BIN / "python"), "-c", CLIENT, str(ARTIFACT_BYTES)], env)
    (seen,) = re.findall(r"^SEEN (.*)$", said, re.MULTILINE)
    return json.loads(seen)


def test_login(seen):
    assert seen["health"] == 200
    assert seen["nobody"] == seen["wrong password"] == 401
    assert seen["trainer"] == 200
    assert seen["trainer looks at admin"] == 403
    assert seen["another host"] == 403


def test_training_is_tracked(stack, seen):
    (run,) = [run for run in seen["runs"] if run["tags"].get("kind") == "train"]
    assert run["status"] == "FINISHED"
    assert run["artifacts"]
    assert seen["location"].startswith("mlflow-artifacts:/"), "clients need the store's credentials"
    assert "step 10/10" in stack.log("train-second").read_text()


def test_retry_resumes(stack, seen):
    """A second cluster, the same --out on S3: it takes up at the last checkpoint, in the same run."""
    assert re.search(r"resum\w+ .*step 6|step 6", stack.log("train-second").read_text())
    assert len([run for run in seen["runs"] if run["tags"].get("kind") == "train"]) == 1


def test_large_artifact(seen):
    print(f"up in {seen['upload seconds']:.1f} s, down in {seen['download seconds']:.1f} s")
    assert seen["bytes"] == ARTIFACT_BYTES
    assert seen["same"]


@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
def test_page(stack, seen):
    """The run's page in a browser that logs in as a person does."""
    login = stack.secrets["mlflow-login"]
    env = {"HOME": "/tmp", "PYTHONPATH": str(K8S.parent)}
    env |= {"WEB_USER": login["username"], "WEB_PASSWORD": login["password"]}
    picture = stack.folder / "page.png"
    command = ["python", "-m", "tests.k8s.browser"]
    (run,) = [run for run in seen["runs"] if run["tags"].get("kind") == "train"]
    # As after `kubectl port-forward`; another origin would have to be among the allowed ones.
    address = f"http://localhost:5000/#/experiments/{seen['experiment']}/runs"
    shown = stack.run("page", [*command, address, run["name"], str(picture)], env)
    assert run["name"] in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    if "VGG_SCREENSHOT" in os.environ:  # to look at it
        shutil.copy(picture, os.environ["VGG_SCREENSHOT"])


def test_backup_is_restored(stack):
    """What the CronJob does by night, seven times over; the newest dump restored into a database of its own."""
    (job,) = [o for o in stack.objects if o["kind"] == "CronJob"]
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    env, folder = stack.environment(container), stack.shared("/backup")
    for i in range(9):  # older ones, to be tidied away
        (folder / f"mlflow-2020010{i}T000000Z.dump").write_text("old")
    stack.run("backup", stack.command(container), env | {"PATH": f"{POSTGRES[-1].parent}:/usr/bin:/bin"})
    kept = sorted(file.name for file in folder.iterdir())
    assert len(kept) == 7
    assert not [name for name in kept if name.endswith(".part")]
    tools, login = POSTGRES[-1].parent, {"PGPASSWORD": stack.secrets["postgres"]["password"]}
    to = ["--host=postgres", "--username=mlflow"]
    stack.run("createdb-restored", [str(tools / "createdb"), *to, "restored"], login)
    dump = str(folder / kept[-1])
    stack.run("restore", [str(tools / "pg_restore"), *to, "--dbname=restored", "--exit-on-error", dump], login)
    count = [str(tools / "psql"), *to, "--dbname=restored", "-Atc", "select count(*) from users"]
    assert int(stack.run("count", count, login)) == 2  # the administrator and the trainings' user
