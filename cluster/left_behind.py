"""Room that a dead controller of Ray Train has left taken.

Ray frees it by an actor that outlives the controller, but which is told of the room only once all workers
have started (`PlacementGroupCleanerCallback.after_worker_group_start` in Ray 2.60). Of a controller that dies
before, it stays taken until the job ends.
"""

import sys
import time

import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.state import list_actors
from ray.util.state.exception import RayStateApiException

SETTLE_SECONDS = 2.0
"""A group without actors may be one of another training of this job, whose workers are about to be started."""
MOST_ACTORS = 10_000


def free_left_behind() -> None:
    """Remove the placement groups of this job in which nothing lives."""
    try:
        empty = _empty_groups()
        if empty:
            time.sleep(SETTLE_SECONDS)
            empty &= _empty_groups()
    except RayStateApiException as error:
        print(f"whether room was left taken is not known: {error}", file=sys.stderr, flush=True)
        return
    for each in empty:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(each))))


def _empty_groups() -> set[str]:
    """The identifiers of those that have their room and no actor; an identifier ends with its job's."""
    job = ray.get_runtime_context().get_job_id()
    placed = {
        each
        for each, group in placement_group_table().items()
        if group["state"] == "CREATED" and each.endswith(job)
    }
    of_job: list[tuple[str, str, str | bool | int | float]] = [("job_id", "=", job), ("state", "!=", "DEAD")]
    living = list_actors(filters=of_job, detail=True, limit=MOST_ACTORS)
    return placed - {actor.placement_group_id for actor in living}
