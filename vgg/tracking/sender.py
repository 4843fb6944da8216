"""Delivers a spool to an MLflow server that may be away for any length of time."""

import math
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    stop_when_event_set,
    wait_exponential,
)

from vgg.tracking.cut_off import ATTEMPT_TAG
from vgg.tracking.delivery import Delivery
from vgg.tracking.messages import print_message
from vgg.tracking.mlflow_client import (
    ServerUnavailable,
    SpoolInUse,
    Undeliverable,
    connect,
    translated_errors,
)
from vgg.tracking.run_info import RunInfo
from vgg.tracking.server import ui_page
from vgg.tracking.spool import Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
IDLE_SECONDS = 1.0
RUN_TAG = "vgg.uid"


class Sender:
    """Delivers one spool in order; `run` is the body of a thread."""

    def __init__(
        self, spool: Spool, uri: str, info: RunInfo | None = None, *, ends_cut_off: bool = False
    ) -> None:
        """`info`: the run, by default as run.json describes it. `ends_cut_off`: a spool without an end, which
        nobody else delivers, is that of a killed process. UserError if run.json is damaged.
        """
        self.spool, self.uri = spool, uri.rstrip("/")
        self.info = info or RunInfo.from_json(spool.read_json("run.json"), spool.folder / "run.json")
        self.finish = threading.Event()
        """Set by the caller: end once all is delivered."""
        self.done = False
        """Whether it ended that way."""
        self.url: str | None = None
        """Page of the run, once it is known."""
        self.problem: str | None = None
        """Why the last attempt did not succeed."""
        self._ends_cut_off = ends_cut_off
        self._abandoned = threading.Event()
        self._delivery: Delivery | None = None

    def run(self, patience_seconds: float = math.inf) -> None:
        """Deliver until `finish` is set and nothing is pending, or the server is away for so long."""
        retrying = Retrying(
            retry=retry_if_exception_type(ServerUnavailable),
            wait=wait_exponential(FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
            sleep=self._pause,
            stop=stop_after_delay(patience_seconds) | stop_when_event_set(self._abandoned),
            after=self._report_outage,
            reraise=True,
        )
        try:
            with suppress(ServerUnavailable):
                while not self.done and not self._abandoned.is_set():
                    retrying(self._deliver_pending)
                    self.problem = None
        except Exception as error:
            self.problem = f"the sender ended: {error!r}"
            raise
        finally:
            self.spool.unlock()

    @property
    def rejections(self) -> int:
        """Events that could not be delivered and are kept."""
        return self._delivery.rejections if self._delivery is not None else 0

    def abandon(self) -> None:
        """Deliver no more; the rest stays in the spool for another sender."""
        self._abandoned.set()

    def _deliver_pending(self) -> None:
        """One attempt; returns early at `abandon`."""
        if self._abandoned.is_set():
            return
        self.spool.appended.clear()
        finishing = self.finish.is_set()  # read before `pending`: what was appended until then is delivered
        if self._delivery is None:
            self._delivery = self._open_run()
        pending = self.spool.pending()
        if pending:
            self._delivery.deliver(pending)
        elif finishing:
            self.done = True
        else:
            self.spool.appended.wait(IDLE_SECONDS)

    def _pause(self, seconds: float) -> None:
        """Wait before the next attempt. `finish` ends the wait; from then on `abandon` does."""
        if self.finish.is_set():
            self._abandoned.wait(FIRST_PAUSE_SECONDS)
        else:
            self.finish.wait(seconds)

    def _report_outage(self, state: RetryCallState) -> None:
        assert state.outcome is not None, "called after an attempt"
        reason = state.outcome.exception()
        in_use = isinstance(reason, SpoolInUse)
        self.problem = str(reason) if in_use else f"{self.uri} is unavailable ({reason})"
        if state.attempt_number == 1 and not self._abandoned.is_set():
            print_message(f"{self.problem}; all is kept in {self.spool.folder}")

    def _open_run(self) -> Delivery:
        """Find or create the run of this spool and describe it."""
        if not self.spool.lock_for_delivery():
            raise SpoolInUse("another process delivers this spool")
        if self._ends_cut_off:
            self._end_cut_off()
        try:
            with translated_errors():
                client = connect(self.uri)
                run = self._find_or_create_run(client)
        except Undeliverable as rejected:  # nothing can be delivered until someone restores the experiment
            raise ServerUnavailable(f"it rejects the run: {rejected}") from rejected
        delivery = Delivery(client, run, self.info, self.spool)
        delivery.describe_run()
        self.url = ui_page(self.uri, f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}")
        return delivery

    def _end_cut_off(self) -> None:
        """End the run of a process that was killed before it could, at the time of its last event."""
        status, last_ms = None, self.info.started
        for event in self.spool.all_events():
            status = event.get("status") if event["kind"] == "status" else status
            last_ms = time if type(time := event.get("time")) is int else last_ms
        if status == "RUNNING":
            self.spool.append({"kind": "status", "status": "KILLED", "time": last_ms})
        self._ends_cut_off = False

    def _find_or_create_run(self, client: "MlflowClient") -> "Run":
        info = self.info
        experiment = client.get_experiment_by_name(info.experiment)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(info.experiment)
        found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{info.uid}'", max_results=1)
        if found:
            return found[0]
        self.spool.mark_delivered(0)  # a new run, also on a server that lost the earlier one, gets all events
        tags = {RUN_TAG: info.uid}
        if ATTEMPT_TAG in info.tags:  # from the start: an interruption looks for it
            tags[ATTEMPT_TAG] = info.tags[ATTEMPT_TAG]
        return client.create_run(experiment_id, start_time=info.started, tags=tags, run_name=info.name)
