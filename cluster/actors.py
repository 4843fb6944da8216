"""Ray's table of actors, of this process's job."""

from typing import Any

import ray
from ray._private.state import state as cluster_state

STATES = "PENDING_CREATION", "ALIVE"


def actors_of_job(class_name: str) -> dict[str, dict[str, Any]]:
    """What Ray says of those of a class that are there or about to be, by their ids."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return {
        identifier: actor
        for name in STATES
        for identifier, actor in cluster_state.actor_table(None, job_id=job, actor_state_name=name).items()
        if actor["ActorClassName"] == class_name
    }
