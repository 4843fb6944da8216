"""What the Pods must say to each other, read off the rendered objects, and whether the cluster lets them.

For every address in variables, commands, mounted files and entrypoints: the Service of this name, the Pods
it selects, a program that listens there, the policies at both ends, and the name's resolution.
`tests.k8s.isolation` asks the other half: that nothing else is possible.
"""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.k8s import programs
from tests.k8s.built import Built, built, dashboard_port, head_host, services
from tests.k8s.manifests import Object, label
from tests.k8s.policies import End, blocked, matches
from tests.k8s.programs import World

DNS_PODS = End("CoreDNS", "kube-system", {"k8s-app": "kube-dns"})
RESOLVERS = (
    DNS_PODS,
    End("NodeLocal DNSCache", address="169.254.20.10"),
    End("Cloud DNS", address="169.254.169.254"),
)
OPERATOR = End(
    "KubeRay's operator",
    "kuberay-operator",
    {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"},
)
"""As `ray-operator/config/manager/manager.yaml` labels it, in the namespace of k8s/operator."""
PROMETHEUS = End("Prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"})
"""Where components/monitoring expects it."""
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432}
ADDRESS = re.compile(r"\b(https?|postgres(?:ql)?)://(?:[^@/\s\"']*@)?([\w.-]+)(?::(\w+))?")
NOT_TARGETS = {"MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"}
"""Variables with addresses that others use."""


@dataclass(frozen=True)
class Conversation:
    """Somebody connects somewhere."""

    source: Built | End
    host: str
    port: int
    why: str
    """Where the address is written."""
    tls: bool = False


def end(pod: Built) -> End:
    """A Pod as an end of connections."""
    ports = {
        p["name"]: int(p["containerPort"])
        for c in pod.pod["spec"]["containers"]
        for p in c.get("ports") or []
        if "name" in p
    }
    return End(pod.where, pod.namespace, pod.labels, ports=ports)


def conversations(world: World) -> list[Conversation]:
    """Every conversation that the objects themselves name, and those of KubeRay."""
    found: list[Conversation] = []
    for pod in built(world.objects):
        for container in [*(pod.pod["spec"].get("initContainers") or []), *pod.pod["spec"]["containers"]]:
            for why, text in _texts(world, pod, container):
                secure = _verified(text)
                found += [
                    Conversation(pod, host, port, f"{container['name']}: {why}", host in secure)
                    for host, port in addresses(text)
                ]
    for o in world.objects:
        if o["kind"] in ("RayCluster", "RayJob"):
            found.append(Conversation(OPERATOR, head_host(o), dashboard_port(o), "the jobs API"))
    for pod in built(world.objects):
        if pod.ray is not None and "address" in pod.ray:
            host, _, port = pod.ray["address"].partition(":")
            found.append(Conversation(pod, host, int(port), "ray start --address"))
        if pod.where.endswith(" submitter"):
            found.append(
                Conversation(pod, head_host(pod.owner), dashboard_port(pod.owner), "ray job submit --address")
            )
    return found


def _verified(text: str) -> set[str]:
    """Hosts of a text that must show a certificate: https, and PostgreSQL with sslmode=verify-full."""
    return {
        found[2]
        for found in ADDRESS.finditer(text)
        if found[1] == "https" or "sslmode=verify-full" in text[found.end() :].partition("\n")[0]
    }


def addresses(text: str) -> Iterator[tuple[str, int]]:
    """Hosts and ports that a text names: URLs, and `--host=NAME --port=NUMBER` of PostgreSQL's tools."""
    for scheme, host, port in ADDRESS.findall(text):
        yield host, int(port) if port.isdigit() else DEFAULT_PORTS[scheme]
    for host, port in re.findall(r"--host[= ]([\w.-]+)(?:\s+--port[= ](\d+))?", text):
        if not programs.is_open(host):
            yield host, int(port or 5432)


def _texts(world: World, pod: Built, container: Object) -> Iterator[tuple[str, str]]:
    for name, value in programs.environment(world, pod.pod, container).items():
        if name not in NOT_TARGETS:
            yield name, value
    yield from programs.files(world, pod.pod, container).items()
    if not programs.program(container):
        yield "command", "\n".join(programs.words(container))
    if pod.owner["kind"] == "RayJob" and pod.where.endswith(" head"):
        yield "entrypoint", str(pod.owner["spec"].get("entrypoint"))  # the driver runs on the head


def problems(world: World, outside: dict[str, str]) -> Iterator[str]:
    """Conversations that cannot take place. `outside`: name -> address of what is not in the cluster."""
    policies = [o for o in world.objects if o["kind"] == "NetworkPolicy"]
    everything = built(world.objects)
    yield from _monitored(world, policies, everything)
    for c in conversations(world):
        who = c.source if isinstance(c.source, End) else end(c.source)
        about = f"{who.name}: {c.host}:{c.port} ({c.why})"
        if isinstance(c.source, Built):
            yield from (f"{about}: {text}" for text in _unresolved(c.source, policies))
        if c.host in outside:
            if not c.tls:
                how = "https, sslmode=verify-full"
                yield f"{about}: outside the cluster, and no certificate is asked for ({how})"
            text = blocked(policies, who, End(c.host, address=outside[c.host]), c.port)
            yield from [f"{about}: not allowed by {text}"] if text else []
            continue
        service = service_of(world, c.host, who.namespace)
        if service is None:
            yield f"{about}: no Service and no outside address has this name"
            continue
        if c.tls:
            yield f"{about}: {label(service)} speaks no TLS, and the address is https"
        yield from (f"{about}: {text}" for text in _unreached(world, service, c, who, everything, policies))
        yield from (f"{about}: {text}" for text in _refused(world, service, c, everything))


def _monitored(world: World, policies: list[Object], everything: list[Built]) -> Iterator[str]:
    """Prometheus, at the ports that a PodMonitor names."""
    for monitor in (o for o in world.objects if o["kind"] == "PodMonitor"):
        space, selector = monitor["metadata"].get("namespace"), monitor["spec"]["selector"]
        chosen = [p for p in everything if p.namespace == space and matches(selector, p.labels)]
        if not chosen:
            yield f"{label(monitor)} selects no Pod: spec.selector {selector}"
        for pod in chosen:
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                number = end(pod).ports.get(endpoint.get("port", ""))
                if number is None or number not in programs.listeners(world, pod):
                    yield f"{label(monitor)}: {pod.where} has no port {endpoint.get('port')} that answers"
                    continue
                text = blocked(policies, PROMETHEUS, end(pod), number)
                if text:
                    yield f"{label(monitor)}: port {number} of {pod.where} is not allowed by {text}"


def _unresolved(pod: Built, policies: list[Object]) -> Iterator[str]:
    spec = pod.pod["spec"]
    if spec.get("dnsPolicy", "ClusterFirst") != "ClusterFirst" or "dnsConfig" in spec or "hostAliases" in spec:
        yield f"dnsPolicy {spec.get('dnsPolicy')}, dnsConfig or hostAliases: names of Services are not resolved"
    for resolver in RESOLVERS:
        for protocol in ("UDP", "TCP"):
            text = blocked(policies, end(pod), resolver, 53, protocol)
            if text:
                yield f"no DNS from {resolver.name} over {protocol}: {text}"


def service_of(world: World, host: str, namespace: str) -> Object | None:
    """The Service that a name means in a namespace."""
    name, _, rest = host.partition(".")
    space, _, rest = rest.partition(".")
    if rest not in ("", "svc", "svc.cluster.local"):
        return None
    for service in services(world.objects):
        metadata = service["metadata"]
        if (metadata["name"], metadata.get("namespace", "default")) == (name, space or namespace):
            return service
    return None


def backends(service: Object, everything: list[Built]) -> list[Built]:
    """The Pods that a Service selects."""
    space, selector = service["metadata"].get("namespace", "default"), service["spec"].get("selector")
    chosen = [p for p in everything if p.namespace == space and matches({"matchLabels": selector}, p.labels)]
    return chosen if selector else []


def _unreached(
    world: World, service: Object, c: Conversation, who: End, everything: list[Built], policies: list[Object]
) -> Iterator[str]:
    ports = {each["port"]: each.get("targetPort", each["port"]) for each in service["spec"]["ports"]}
    if service["spec"].get("type", "ClusterIP") != "ClusterIP":
        yield f"{label(service)} is of type {service['spec']['type']}: spec.type exposes it outside the cluster"
    if c.port not in ports:
        yield f"{label(service)} has no port {c.port}: spec.ports has {sorted(ports)}"
        return
    chosen = backends(service, everything)
    if not chosen:
        yield f"{label(service)} selects no Pod: spec.selector {service['spec'].get('selector')}"
    for pod in chosen:
        target = ports[c.port]
        number = end(pod).ports.get(target) if isinstance(target, str) else int(target)
        if service["spec"].get("clusterIP") == "None" and number != c.port:
            yield f"{label(service)} is headless, so nothing turns port {c.port} into {target}"
        if number is None:
            yield f"no container of {pod.where} has port {target}"
            continue
        listening = programs.listeners(world, pod)
        if number not in listening:
            yield f"{pod.where} listens at {sorted(listening)}, not at {number} ({label(service)} spec.ports)"
        elif not programs.is_open(listening[number]):
            yield f"{pod.where} listens at {number} on {listening[number]} only"
        text = blocked(policies, who, end(pod), number)
        if text:
            yield f"port {number} of {pod.where} is not allowed by {text}"


def _refused(world: World, service: Object, c: Conversation, everything: list[Built]) -> Iterator[str]:
    """MLflow answers 403 to a Host header that it does not know."""
    for pod in backends(service, everything):
        for container in pod.pod["spec"]["containers"]:
            if programs.program(container) != "mlflow":
                continue
            env = programs.environment(world, pod.pod, container)
            hosts = [each for each in env.get("MLFLOW_SERVER_ALLOWED_HOSTS", "").split(",") if each]
            for host in (f"{c.host}:{c.port}", f"localhost:{c.port}"):  # the latter by a forwarded port
                if not any(fnmatch.fnmatchcase(host, pattern) for pattern in hosts):
                    yield f"{pod.where} answers 403 to {host}: MLFLOW_SERVER_ALLOWED_HOSTS is {hosts}"
            if not all(pattern.partition(":")[0].strip("*. ") for pattern in hosts):
                yield f"{pod.where} answers to every host: MLFLOW_SERVER_ALLOWED_HOSTS is {hosts}"
