"""The demo's training as a job of its cluster: submitted and followed; Ctrl-C stops it with its step saved."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cli.errors import Failure
from cluster.access import use_in_this_process
from cluster.nodes import ENVIRONMENT, Node
from demo.commands import PYTHON, ROOT, console, require_success, start
from demo.runs import is_trained

STOP_SECONDS = float(ENVIRONMENT["RAY_JOB_STOP_WAIT_TIME_S"]) + 10.0
"""Ray kills a stopped job after the first part."""
SUBMIT_SECONDS = 2.0
"""How long after Ctrl-C a job that was just being submitted may come to be."""
POLL_SECONDS = 0.2


def train(training: list[str], job: str, out: Path, cluster: Node, again: str) -> None:
    """`ray job submit` the command of a training into the folder `out`, and follow its log.

    Ctrl-C ends this process with 130 once the job has saved its step and a line has said so; `again`: the
    command that goes on from there.
    """
    ray = str(Path(PYTHON).with_name("ray"))
    command = [ray, "job", "submit", f"--address={cluster.dashboard_url}", f"--submission-id={job}"]
    command += [f"--working-dir={ROOT}", "--", *training]
    # Held while the follower starts, Ctrl-C finds it; the follower inherits that, and never gets it itself.
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with start(command, cluster) as follower:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            code = follower.wait()
        except KeyboardInterrupt:
            follower.kill()
            console.print("stopping: the training saves the step that it is at")
            _stop(job, cluster)
            console.print(f"stopped: {_kept(out)}; `{again}` goes on from there", markup=False)
            sys.exit(130)
    require_success(command, code)
    if not is_trained(out):
        raise Failure(f"the job {job} was stopped by somebody else: {_kept(out)}; `{again}` goes on from there")


def _stop(job: str, cluster: Node) -> None:
    """Return when the job has ended. Failure where it does not."""
    try:
        has_ended = _ends(job, cluster)
    except (OSError, RuntimeError) as error:  # as Ray's client raises
        raise Failure(f"the job {job} could not be stopped: {error}") from error
    if not has_ended:
        raise Failure(f"the job {job} has not ended {STOP_SECONDS:.0f} s after it was stopped")


def _ends(job: str, cluster: Node) -> bool:
    """Stop the job; whether it has ended in time, or has never been."""
    from ray.job_submission import JobSubmissionClient  # a second to import, for Ctrl-C alone

    use_in_this_process(cluster.access())
    jobs = JobSubmissionClient(cluster.dashboard_url)
    if not _within(SUBMIT_SECONDS, lambda: job in {each.submission_id for each in jobs.list_jobs()}):
        return True
    jobs.stop_job(job)
    return _within(STOP_SECONDS, lambda: jobs.get_job_status(job).is_terminal())


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return held


def _kept(out: Path) -> str:
    from pipelines.storage.folder import Folder
    from vgg.weights import retention  # seconds to import

    last = retention.read_index(Folder(str(out))).get("last")
    if last is None:
        return f"no step had been made in {out}"
    return f"step {retention.step_of(last):,} is kept in {out}"
