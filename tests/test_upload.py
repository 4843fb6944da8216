"""What `ray job submit --working-dir .` uploads from the repository's root: the packages, and nothing that runs
leave there."""

import shutil
from zipfile import ZipFile

from ray._private.runtime_env.packaging import create_package

from tests.conftest import ROOT

SENT = {
    "vgg/train.py",
    "vgg/reporting/templates/report.html.jinja",
    "cluster/trainer.py",
    "cli/errors.py",
    "run.yaml",
}
KEPT = {
    "mlflow.db",
    "mlruns/0/meta.yaml",
    "predictions.png",
    "build/lib/vgg/train.py",
    "runs/digits/checkpoints/step-5/model.safetensors",
    "DATA/manifest.json",
    "best.csv",
    ".demo/mlflow/mlflow.db",
    ".venv/bin/python",
    ".git/config",
    "vgg/__pycache__/train.cpython-311.pyc",
}


def test_nothing_that_runs_leave_in_the_root_is_uploaded(tmp_path):
    root = tmp_path / "root"
    for name in SENT | KEPT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, root)
    create_package(str(root), tmp_path / "upload.zip", include_gitignore=True)
    sent = {name for name in ZipFile(tmp_path / "upload.zip").namelist() if not name.endswith("/")}
    assert sent == SENT


def test_every_package_that_a_job_may_run_is_uploaded(tmp_path):
    create_package(str(ROOT), tmp_path / "upload.zip", include_gitignore=True)
    sent = set(ZipFile(tmp_path / "upload.zip").namelist())
    for room in ("vgg", "cluster", "pipelines", "cli", "benchmarks"):
        files = {str(file.relative_to(ROOT)) for file in (ROOT / room).rglob("*.py")}
        assert files
        assert files <= sent
