"""What KubeRay 1.7 accepts: its schemas read strictly, and the rules that its operator adds in code.

The rules follow `ray-operator/controllers/ray/utils/validation.go` of KubeRay 1.7.0 as far as these manifests
can break them. Its default feature gates are assumed.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.k8s.manifests import Object, cluster_spec

CLUSTER_NAME_LENGTH = 53
JOB_NAME_LENGTH = CLUSTER_NAME_LENGTH - 6  # KubeRay appends six characters
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
POLICIES_IN_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
ALPHA_FIELDS = ("networkPolicy", "tlsOptions", "historyServerOptions")


@lru_cache
def _validator(file: Path) -> jsonschema.Draft202012Validator:
    schema = json.loads(file.read_text())
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """The schema with unknown fields refused and defaulted ones optional, as the API server treats them."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes-val")}
    properties = schema.get("properties")
    if isinstance(properties, dict) and all(isinstance(p, dict) for p in properties.values()):
        keeps = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if properties and not keeps:
            strict["additionalProperties"] = False
        needed = [name for name in schema.get("required", ()) if "default" not in properties.get(name, {})]
        strict.pop("required", None)
        if needed:
            strict["required"] = needed
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        strict["type"] = [schema["type"], "null"]
    return strict


def schema_problems(o: Object, schemas: Path) -> list[str]:
    """Where a RayCluster or RayJob differs from KubeRay's schema."""
    file = schemas / f"{o['kind'].lower()}s.openapi-v3.json"
    errors = _validator(file).iter_errors(o)
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in errors]


def rule_problems(o: Object) -> list[str]:
    """What KubeRay's operator would refuse, or set aside in silence."""
    name = o["metadata"].get("name") or ""
    longest = CLUSTER_NAME_LENGTH if o["kind"] == "RayCluster" else JOB_NAME_LENGTH
    rules = [
        (len(name) <= longest, f"name has {len(name)} characters, {longest} are allowed"),
        (DNS_1035.fullmatch(name) is not None, f"name {name!r} is no DNS-1035 label"),
    ]
    if o["kind"] == "RayJob":
        rules += _job_rules(o["spec"])
    if cluster_spec(o):
        rules += _cluster_rules(cluster_spec(o), o["kind"] == "RayJob")
    return [message for good, message in rules if not good]


def _job_rules(spec: Object) -> list[tuple[bool, str]]:
    mode = spec.get("submissionMode", "K8sJobMode")
    selector, cluster = spec.get("clusterSelector"), spec.get("rayClusterSpec")
    backoff, shutdown = spec.get("backoffLimit", 0), spec.get("shutdownAfterJobFinishes", False)
    ttl, strategy = spec.get("ttlSecondsAfterFinished", 0), spec.get("deletionStrategy")
    try:
        runtime_env_is_yaml = isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict)
    except yaml.YAMLError:
        runtime_env_is_yaml = False
    rules = [
        (mode in SUBMISSION_MODES, f"submissionMode {mode!r} is none of {SUBMISSION_MODES}"),
        (bool(spec.get("entrypoint")) or mode == "InteractiveMode", "entrypoint is missing"),
        (bool(cluster) or bool(selector), "neither rayClusterSpec nor clusterSelector"),
        (not (spec.get("suspend") and not shutdown), "suspend needs shutdownAfterJobFinishes"),
        (not (spec.get("suspend") and selector), "suspend and clusterSelector exclude each other"),
        (not selector or bool(selector.get("ray.io/cluster")), "clusterSelector without ray.io/cluster"),
        (not (selector and mode == "SidecarMode"), "clusterSelector and SidecarMode exclude each other"),
        (isinstance(backoff, int) and backoff >= 0, "backoffLimit is negative"),
        (not (selector and backoff), "backoffLimit and clusterSelector exclude each other"),
        (not (mode == "InteractiveMode" and backoff), "backoffLimit and InteractiveMode exclude each other"),
        (isinstance(ttl, int) and ttl >= 0, "ttlSecondsAfterFinished is negative"),
        (not (ttl and not shutdown), "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"),
        (runtime_env_is_yaml, "runtimeEnvYAML is no YAML mapping"),
        (spec.get("activeDeadlineSeconds", 1) > 0, "activeDeadlineSeconds must be positive"),
        (spec.get("preRunningDeadlineSeconds", 1) > 0, "preRunningDeadlineSeconds must be positive"),
        # Not the operator's: a fixed id would make the retry's submission a duplicate.
        ("jobId" not in spec, "jobId is fixed: a retry could not submit"),
    ]
    if mode == "SidecarMode":
        head_restarts = _restart_policy((cluster or {}).get("headGroupSpec"))
        rules += [
            ("submitterPodTemplate" not in spec, "SidecarMode takes no submitterPodTemplate"),
            ("submitterConfig" not in spec, "SidecarMode takes no submitterConfig"),
            (head_restarts in (None, "Never"), "SidecarMode needs restartPolicy Never on the head"),
        ]
    if mode in ("K8sJobMode", "SidecarMode"):
        # Not the operator's: its own submitter has no security context and the namespace refuses it.
        rules.append(("submitterPodTemplate" in spec, "KubeRay's own submitter violates PodSecurity"))
    if "submitterPodTemplate" in spec:
        restarts = spec["submitterPodTemplate"].get("spec", {}).get("restartPolicy")
        rules.append((restarts in ("Never", "OnFailure"), f"a Job's Pod cannot have restartPolicy {restarts}"))
    if strategy is not None:
        rules += _deletion_rules(strategy, bool(shutdown), bool(selector), cluster or {})
    return rules


def _deletion_rules(
    strategy: Object, shutdown: bool, by_selector: bool, cluster: Object
) -> list[tuple[bool, str]]:
    listed = strategy.get("deletionRules") or []
    legacy = [strategy.get("onSuccess"), strategy.get("onFailure")]
    rules = [
        (not (listed and shutdown), "deletionRules and shutdownAfterJobFinishes exclude each other"),
        (not (listed and any(legacy)), "deletionRules and onSuccess/onFailure exclude each other"),
        (bool(listed) or all(legacy), "deletionStrategy needs deletionRules, or both onSuccess and onFailure"),
    ]
    policies = [each["policy"] for each in legacy if each and "policy" in each]
    rules.append((not (shutdown and "DeleteNone" in policies), "shutdown with policy DeleteNone"))
    times: dict[str, dict[str, int]] = {}
    for rule in listed:
        condition, policy = rule.get("condition", {}), rule.get("policy")
        one = ("jobStatus" in condition) != ("jobDeploymentStatus" in condition)
        on = str(condition.get("jobStatus") or condition.get("jobDeploymentStatus"))
        rules += [
            (one, "a deletion rule needs exactly one of jobStatus and jobDeploymentStatus"),
            (condition.get("ttlSeconds", 0) >= 0, "a deletion rule's ttlSeconds is negative"),
            (policy not in times.get(on, {}), f"two deletion rules {policy} for {on}"),
        ]
        times.setdefault(on, {})[str(policy)] = condition.get("ttlSeconds", 0)
        policies.append(policy)
    for on, by_policy in times.items():
        ordered = [by_policy[policy] for policy in POLICIES_IN_ORDER if policy in by_policy]
        rules.append((ordered == sorted(ordered), f"for {on}, workers go before the cluster before the job"))
    shared = {"DeleteCluster", "DeleteWorkers"} & set(policies)
    rules.append((not (by_selector and shared), f"{shared} cannot act on a selected cluster"))
    autoscaled = cluster.get("enableInTreeAutoscaling") and "DeleteWorkers" in policies
    rules.append((not autoscaled, "DeleteWorkers and autoscaling exclude each other"))
    return rules


def _cluster_rules(spec: Object, in_job: bool) -> list[tuple[bool, str]]:
    head, groups = spec.get("headGroupSpec") or {}, spec.get("workerGroupSpecs") or []
    autoscales = bool(spec.get("enableInTreeAutoscaling"))
    auth, version = spec.get("authOptions") or {}, str(spec.get("rayVersion", ""))
    number = tuple(int(part) for part in version.split(".")[:2]) if re.match(r"\d+\.\d+", version) else (0, 0)
    delegated = bool(auth.get("enableK8sTokenAuth"))
    names = [group.get("groupName") for group in groups]
    rules = [
        (bool(_containers(head)), "the head has no container"),
        (auth.get("mode") == "token", "authOptions.mode is not token"),  # ours: KubeRay's default is open
        (number >= (2, 52), f"tokens need rayVersion 2.52.0, not {version!r}"),
        (not delegated or number >= (2, 55), f"enableK8sTokenAuth needs rayVersion 2.55.0, not {version!r}"),
        (not (delegated and in_job), "enableK8sTokenAuth is not for RayJobs"),
        (not (delegated and auth.get("secretName")), "enableK8sTokenAuth and secretName exclude each other"),
        (not (in_job and spec.get("suspend")), "suspend belongs to the RayJob, not to its cluster"),
        (not (in_job and "upgradeStrategy" in spec), "upgradeStrategy is for RayClusters of their own"),
        (len(set(names)) == len(names), f"worker groups of the same name: {names}"),
        *((field not in spec, f"{field} is behind an alpha gate") for field in ALPHA_FIELDS),
        *_group_rules("head", head, autoscales, auth),
    ]
    for group in groups:
        name = group.get("groupName")
        low, count, high = (group.get(key) for key in ("minReplicas", "replicas", "maxReplicas"))
        known = all(isinstance(number, int) for number in (low, count, high))
        rules += [
            (bool(_containers(group)), f"group {name} has no container"),
            (autoscales or known, f"group {name} needs minReplicas, replicas and maxReplicas"),
            (not known or 0 <= low <= count <= high, f"group {name}: {low} <= {count} <= {high} is wrong"),
            (not (autoscales and group.get("suspend")), f"group {name}: suspended and autoscaled"),
            (
                autoscales or "idleTimeoutSeconds" not in group,
                f"group {name}: idleTimeoutSeconds, no autoscaler",
            ),
            (autoscales or not group.get("priority"), f"group {name}: priority without autoscaler"),
            *_group_rules(str(name), group, autoscales, auth),
        ]
    return rules


def _group_rules(name: str, group: Object, autoscales: bool, auth: Object) -> list[tuple[bool, str]]:
    start = group.get("rayStartParams") or {}
    resources = {"num-cpus", "num-gpus", "memory", "resources"} & set(start)
    env = {each.get("name") for c in _containers(group)[:1] for each in c.get("env") or []}
    restart = _restart_policy(group)
    return [
        (all(isinstance(value, str) for value in start.values()), f"{name}: rayStartParams must be strings"),
        (not (resources and group.get("resources")), f"{name}: resources given twice"),
        ("labels" not in start, f"{name}: labels belong to the group, not to rayStartParams"),
        (
            "redis-password" not in start and "RAY_REDIS_ADDRESS" not in env,
            f"{name}: Redis without GCS options",
        ),
        ("RAY_enable_autoscaler_v2" not in env or autoscales, f"{name}: autoscaler v2 in env, but it is off"),
        (
            not (autoscales and restart not in (None, "Never")),
            f"{name}: an autoscaled Pod needs restartPolicy Never",
        ),
        # Not the operator's: it leaves a variable that is already there as it is.
        (
            not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & env,
            f"{name}: env overrides the token of {auth.get('secretName')}",
        ),
        # Not the operator's: anybody who reaches the Pod would get a shell's worth of rights by Ray's API.
        (
            "ray.io/overwrite-container-cmd"
            not in (group.get("template", {}).get("metadata", {}).get("annotations") or {}),
            f"{name}: the command is overwritten",
        ),
    ]


def _containers(group: Object) -> list[Object]:
    found: list[Object] = ((group.get("template") or {}).get("spec") or {}).get("containers") or []
    return found


def _restart_policy(group: Object | None) -> str | None:
    return (((group or {}).get("template") or {}).get("spec") or {}).get("restartPolicy")
