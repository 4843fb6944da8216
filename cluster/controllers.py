"""Ends those of Ray Train's controllers that this process waits for."""

import ray
from ray._private.worker import global_worker
from ray.core.generated.common_pb2 import Address  # type: ignore[attr-defined]

from cluster.actors import actors_of_job

CONTROLLER_CLASS = "TrainController"
"""Ray Train's actor."""


def end_controllers() -> None:
    """End those that this process has started: other trainings of its job go on."""
    core_worker = global_worker.core_worker  # type: ignore[attr-defined]
    own = Address.FromString(core_worker.get_owner_address(ray.put(None)))
    for identifier, actor in actors_of_job(CONTROLLER_CLASS).items():
        owner = actor["OwnerAddress"]
        if (owner["IPAddress"], owner["Port"]) == (own.ip_address, own.port):
            core_worker.kill_actor(ray.ActorID.from_hex(identifier), True)
