"""The kubelet's questions to containers: whether somebody listens there, has that page, and has the time."""

from collections.abc import Iterator

from tests.k8s import programs
from tests.k8s.built import Built
from tests.k8s.manifests import Object
from tests.k8s.programs import World

STARTUP_SECONDS = 60
"""MLflow imports for 15 s on a fast machine, PostgreSQL initialises its folder for some seconds."""
PATIENCE_SECONDS = 60
"""A server under load answers late; to kill it then makes it later."""


def problems(world: World, pod: Built, container: Object) -> Iterator[str]:
    """Probes that ask what is not there, or that are lost, or too impatient."""
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    if pod.where.endswith(" submitter"):
        for kind in ("startupProbe", "livenessProbe"):
            if "/api/jobs/" not in str(container.get(kind)):
                yield f"{kind} does not ask for its job: it would wait for a head that is gone"
    lasting = pod.owner["kind"] in ("StatefulSet", "Deployment")
    for kind in kinds:
        probe = container.get(kind)
        if probe is None:
            if lasting:
                yield f"has no {kind}"
            continue
        yield from (f"{kind} {text}" for text in _asks(world, pod, container, probe))
        if (
            probe.get("initialDelaySeconds", 0) > STARTUP_SECONDS
            or probe.get("periodSeconds", 10) > STARTUP_SECONDS
        ):
            yield f"{kind} begins or repeats late (initialDelaySeconds, periodSeconds)"
        seconds = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        if kind == "startupProbe" and seconds < STARTUP_SECONDS:
            yield (
                f"startupProbe allows {seconds} s (failureThreshold "
                f"x periodSeconds), {STARTUP_SECONDS} are needed"
            )
        if kind == "livenessProbe" and seconds < PATIENCE_SECONDS:
            yield f"livenessProbe kills after {seconds} s (failureThreshold x periodSeconds)"


def _asks(world: World, pod: Built, container: Object, probe: Object) -> Iterator[str]:
    env = programs.environment(world, pod.pod, container)
    name = "ray" if pod.ray is not None else programs.program(container)
    web = probe.get("httpGet") or probe.get("tcpSocket")
    if web is not None:
        named = {p.get("name"): p["containerPort"] for p in container.get("ports") or []}
        port = named.get(web["port"]) if isinstance(web["port"], str) else int(web["port"])
        listening = programs.listeners(world, pod)
        if port is None or not programs.is_open(listening.get(int(port), "nobody")):
            yield f"asks port {web['port']}, where {pod.where} does not listen for the kubelet"
        if "httpGet" in probe and web.get("path", "/") not in programs.PAGES.get(name, set()):
            yield (
                f"asks for httpGet.path {web.get('path')}; {name or 'the program'} "
                f"has {sorted(programs.PAGES.get(name, ()))}"
            )
        if web.get("scheme", "HTTP") != "HTTP":
            yield f"asks by {web['scheme']}"
        if web.get("host"):
            yield f"asks host {web['host']}, not the Pod"
    command = (probe.get("exec") or {}).get("command") or []
    if command[:1] == ["pg_isready"]:
        given = dict(zip(command[1::2], command[2::2], strict=False))
        wanted = {"-U": env.get("POSTGRES_USER"), "-d": env.get("POSTGRES_DB"), "-p": env.get("PGPORT", "5432")}
        for flag, value in given.items():
            if value != wanted.get(flag):
                yield f"asks as pg_isready {flag} {value}, PostgreSQL has {wanted.get(flag)}"
