"""Follows a running study: on the terminal, in state.json of its folder, in MLflow."""

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Protocol

from pipelines.storage.folder import Folder
from vgg.pictures.graph import graph_figure
from vgg.studies.graph import Study
from vgg.studies.planned import PlannedStudy
from vgg.studies.progress import StudyProgress
from vgg.studies.record import StepResult
from vgg.studies.steps import StudyJob
from vgg.tracking.study_run import StudyRun

REPORT = "report"
STATE = "state.json"
STUDY = "study.json"


class Snapshot(Protocol):
    """What is known of the running steps; see `cluster.task_graph.Snapshot`."""

    @property
    def running(self) -> Mapping[str, float]:
        """Step -> how much of it is done."""

    @property
    def results(self) -> Mapping[str, StepResult]:
        """Of the steps that are done."""

    @property
    def errors(self) -> Mapping[str, Exception]:
        """Step -> why it failed."""

    @property
    def not_run(self) -> Mapping[str, str]:
        """Step -> the failed one that it needed."""


class Follower:
    """Keeps what is known of the steps and tells it on; a context manager."""

    def __init__(self, study: Study, job: StudyJob, plan: PlannedStudy, out: Folder) -> None:
        self.results: dict[str, StepResult] = dict(plan.done)
        self.errors: dict[str, Exception] = {}
        self._not_run: dict[str, str] = {}
        self._out, self._nodes = out.underway(), plan.nodes
        self._progress = StudyProgress(plan.nodes, plan.seconds)
        self._run = None
        if job.tracking_uri is not None:
            params = {
                "study": study.name,
                "data": job.data,
                "code": job.code,
                "workers": str(job.layout.workers),
            }
            uid = _uid(self._out)
            self._run = StudyRun(job.tracking_uri, job.experiment, uid, f"study {study.name}", params)
        self._told = -1

    def __enter__(self) -> "Follower":
        self._progress.__enter__()
        self._tell({})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.__exit__()
        if kind is not None and self._run is not None:
            self._update("FAILED" if issubclass(kind, Exception) else "KILLED")

    def expect(self, at_once: int) -> None:
        """So many steps run at a time."""
        self._progress.at_once = at_once

    def follow(self, snapshot: Snapshot) -> None:
        """Take in how the steps stand."""
        self.results |= snapshot.results
        self.errors, self._not_run = dict(snapshot.errors), dict(snapshot.not_run)
        self._tell(snapshot.running)

    def end(self, out: Folder) -> None:
        """Tell MLflow that the study has ended, with its report."""
        if self._run is None:
            return
        report, status = out.child(REPORT), "FAILED" if self.errors else "FINISHED"
        with TemporaryDirectory() as folder:
            files = {}
            for name in report.names():
                copied = Path(folder) / name
                copied.write_bytes(report.read(name))
                files[str(copied)] = REPORT
            if self._update(status, files):
                print(f"tracked at {self._run.url}", flush=True)

    def _states(self, running: Mapping[str, float]) -> dict[str, str]:
        known = {
            **dict.fromkeys(self.results, "done"),
            **dict.fromkeys(self.errors, "failed"),
            **dict.fromkeys(self._not_run, "not run"),
        }
        return {n.name: known.get(n.name, "running" if n.name in running else "waiting") for n in self._nodes}

    def _tell(self, running: Mapping[str, float]) -> None:
        states, ended = self._states(running), len(self.results) + len(self.errors) + len(self._not_run)
        notes = {name: f"in {result.cost.seconds:.0f} s" for name, result in self.results.items()}
        notes |= {name: "found" for name, result in self.results.items() if result.found}
        notes |= {name: f"{failed} failed" for name, failed in self._not_run.items()}
        notes |= {name: str(error).partition("\n")[0] for name, error in self.errors.items()}
        shares = {name: share for name, share in running.items() if states.get(name) == "running"}
        self._progress.show(states, shares, notes)
        if ended != self._told:
            self._told = ended
            self._out.write_json(STATE, {"states": states, "notes": notes, "unix_time": int(time.time())})
            self._update()

    def _update(self, status: str = "RUNNING", files: Mapping[str, str] | None = None) -> bool:
        if self._run is None:
            return False
        states = self._states({})
        counts = {f"steps_{state.replace(' ', '_')}": 0.0 for state in ("done", "failed", "not run")}
        for state in states.values():
            key = f"steps_{state.replace(' ', '_')}"
            if key in counts:
                counts[key] += 1
        children = {page: name for name, result in self.results.items() for page in result.tracked}
        picture = {"graph.png": graph_figure({n.name: n.needs for n in self._nodes}, states)}
        return self._run.update({"states": states}, counts, children, picture, files, status)


def _uid(out: Folder) -> str:
    """Of the study in this folder, the same for every attempt at it."""
    if out.exists(STUDY):
        found = out.read_json(STUDY)
        if isinstance(found, dict) and isinstance(found.get("uid"), str):
            return str(found["uid"])
    uid = uuid.uuid4().hex
    out.write_json(STUDY, {"format": 1, "uid": uid})
    return uid
