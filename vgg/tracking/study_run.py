"""A study as a run of MLflow, the parent of the runs of its steps: its picture, its state, its report."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from vgg.tracking.messages import print_message
from vgg.tracking.mlflow_client import ServerUnavailable, Undeliverable, connect, translated_errors
from vgg.tracking.run_info import unix_time_ms
from vgg.tracking.sender import RUN_TAG
from vgg.tracking.server import page_address

if TYPE_CHECKING:
    from mlflow import MlflowClient

UID_TAG = "vgg.study"
PARENT_TAG = "mlflow.parentRunId"


class StudyRun:
    """Tells MLflow how a study stands. A server that is away is told of once; the next call says all anew."""

    def __init__(self, uri: str, experiment: str, uid: str, name: str, params: Mapping[str, str]) -> None:
        """`uid`: of the study's folder: the same study is the same run, however often it is started."""
        self._uri, self._experiment, self._uid, self._name = uri, experiment, uid, name
        self._params, self._run_id, self._experiment_id = dict(params), "", ""
        self._linked: set[str] = set()
        self._is_away = False

    @property
    def url(self) -> str | None:
        """Address of its page, once the server has answered."""
        if not self._run_id:
            return None
        return f"{page_address(self._uri)}/#/experiments/{self._experiment_id}/runs/{self._run_id}"

    def update(
        self,
        state: Mapping[str, Any],
        metrics: Mapping[str, float],
        children: Mapping[str, str],
        pictures: Mapping[str, Figure],
        files: Mapping[str, str] | None = None,
        status: str = "RUNNING",
    ) -> bool:
        """Say how the study stands; whether the server has taken it.

        `children`: a step's run, by its address or its uid -> the step. `files`: path -> folder of the
        run's artifacts. `status`: RUNNING, FINISHED, FAILED or KILLED.
        """
        try:
            with translated_errors():
                client = connect(self._uri)
                self._open(client)
                for tracked, step in children.items():
                    self._link(client, tracked, step)
                for key, value in metrics.items():
                    client.log_metric(self._run_id, key, value)
                with TemporaryDirectory() as folder:
                    written = Path(folder) / "state.json"
                    written.write_text(json.dumps(state, indent=1))
                    client.log_artifact(self._run_id, str(written))
                for name, figure in pictures.items():
                    client.log_figure(self._run_id, figure, name)
                for file, place in (files or {}).items():
                    client.log_artifact(self._run_id, file, place)
                if status != "RUNNING":
                    client.set_terminated(self._run_id, status, unix_time_ms())
        except (ServerUnavailable, Undeliverable) as error:
            if not self._is_away:
                print_message(f"the study's run in MLflow is not up to date: {error}")
            self._is_away = True
            return False
        self._is_away = False
        return True

    def _open(self, client: "MlflowClient") -> None:
        if self._run_id:
            return
        stored = client.get_experiment_by_name(self._experiment)
        self._experiment_id = stored.experiment_id if stored else client.create_experiment(self._experiment)
        found = client.search_runs([self._experiment_id], f"tags.`{UID_TAG}` = '{self._uid}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
            client.update_run(self._run_id, status="RUNNING")
            return
        tags = {UID_TAG: self._uid, "kind": "study"}
        run = client.create_run(self._experiment_id, run_name=self._name, tags=tags)
        self._run_id = run.info.run_id
        for key, value in self._params.items():
            client.log_param(self._run_id, key, value)

    def _link(self, client: "MlflowClient", tracked: str, step: str) -> None:
        """Make a run a child of this one, once."""
        if tracked in self._linked:
            return
        address = re.search(r"/runs/([0-9a-f]{32})", tracked)
        if address is not None:
            run_id = address[1]
        elif found := client.search_runs(
            [self._experiment_id], f"tags.`{RUN_TAG}` = '{tracked}'", max_results=1
        ):
            run_id = found[0].info.run_id
        else:
            return  # not delivered yet
        client.set_tag(run_id, PARENT_TAG, self._run_id)
        client.set_tag(run_id, "step", step)
        self._linked.add(tracked)
