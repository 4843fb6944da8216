"""Ends those of Ray Train's controllers that this process waits for."""

import ray
from ray._private.state import state as cluster_state
from ray._private.worker import global_worker
from ray.core.generated.common_pb2 import Address  # type: ignore[attr-defined]

CONTROLLER_CLASS = "TrainController"
"""Ray Train's actor."""
STATES = "PENDING_CREATION", "ALIVE"


def end_controllers() -> None:
    """End those that this process has started: other trainings of its job go on."""
    core_worker = global_worker.core_worker  # type: ignore[attr-defined]
    own = Address.FromString(core_worker.get_owner_address(ray.put(None)))
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    for name in STATES:
        actors = cluster_state.actor_table(None, job_id=job, actor_state_name=name)
        for identifier, actor in actors.items():
            owner = actor["OwnerAddress"]["IPAddress"], actor["OwnerAddress"]["Port"]
            if actor["ActorClassName"] == CONTROLLER_CLASS and owner == (own.ip_address, own.port):
                core_worker.kill_actor(ray.ActorID.from_hex(identifier), True)
