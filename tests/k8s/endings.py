"""Whether a training that is asked to end has the time to save its step, wherever the time is bounded.

    --layout.grace-seconds <= RAY_JOB_STOP_WAIT_TIME_S <= preStop's --seconds < terminationGracePeriodSeconds

The first is what a training takes at most (25 by default), the second after how long Ray kills a stopped job,
the third how long `cluster.leave` holds up the Pod's end, the last when the kubelet kills it.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from cluster.layout import Layout
from tests.k8s import programs
from tests.k8s.built import Built, built
from tests.k8s.programs import World

TIMES = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": (30, 600),
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": (0.5, 10),
    "RAY_health_check_period_ms": (500, 5000),
}
"""Least and most of times in which Ray gives something up: a worker imports its libraries in up to 20 s, and a
lost one is not noticed sooner than asked for."""


def problems(world: World) -> Iterator[str]:
    """Bounds that are in the wrong order, or a Pod that does not say that it goes."""
    for pod in built(world.objects):
        if pod.ray is not None:
            yield from (f"{pod.where}: {text}" for text in (*_in_order(world, pod), *_patient(world, pod)))


def _in_order(world: World, pod: Built) -> Iterator[str]:
    first = pod.pod["spec"]["containers"][0]
    hook = ((first.get("lifecycle") or {}).get("preStop") or {}).get("exec") or {}
    command = [str(word) for word in hook.get("command") or []]
    role = "node" if pod.is_worker else "jobs"
    if command[:4] != ["python", "-m", "cluster.leave", role]:
        yield f"preStop {command} is not python -m cluster.leave {role}: a step is lost with the Pod"
        return
    grace = re.search(r"--layout\.grace-seconds=([\d.]+)", str(pod.owner["spec"].get("entrypoint")))
    env = programs.environment(world, pod.pod, first)
    bounds = {
        "--layout.grace-seconds": float(grace[1]) if grace else Layout.grace_seconds,
        "RAY_JOB_STOP_WAIT_TIME_S": float(env.get("RAY_JOB_STOP_WAIT_TIME_S", 3)),  # Ray's own is three
        "preStop --seconds": float(programs.flag({"command": command}, "seconds", "40")),
        "terminationGracePeriodSeconds": pod.pod["spec"].get("terminationGracePeriodSeconds", 30) - 1,
    }
    for shorter, longer in pairwise(bounds):
        if bounds[shorter] > bounds[longer]:
            yield f"{shorter} {bounds[shorter]:g} is longer than {longer}: a training is killed as it saves"


def _patient(world: World, pod: Built) -> Iterator[str]:
    env = programs.environment(world, pod.pod, pod.pod["spec"]["containers"][0])
    for name, (least, most) in TIMES.items():
        if not least <= float(env.get(name, least)) <= most:
            yield f"{name} {env[name]} is not between {least} and {most}"
