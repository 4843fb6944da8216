"""Whether every server asks for a login, and every Pod has the one that it should have: by the values
themselves."""

import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.k8s import programs
from tests.k8s.built import Built, built
from tests.k8s.manifests import Object
from tests.k8s.programs import World

BUCKET = re.compile(r"\bs3://([\w.-]+)")
PLACEHOLDER = "CHANGE-ME"
SECRET_NAME = re.compile(r"(PASSWORD|TOKEN|SECRET|ACCESS_KEY)(_ID|_KEY)?$")
ADDRESS_OF = {"AWS_ACCESS_KEY_ID": "AWS_ENDPOINT_URL", "MLFLOW_TRACKING_PASSWORD": "MLFLOW_TRACKING_URI"}
"""Credentials and the variable that says for which server they are."""
ADMINISTERS = {"Job/s3-buckets": {"s3-admin"}, "Job/mlflow-users": {"mlflow-server"}}
"""Jobs that need an administrator's credentials beside their own server's."""


def problems(world: World) -> Iterator[str]:
    """Servers without login, credentials that are somebody else's, buckets that nobody made or may write."""
    pods = built(world.objects)
    identities = _identities(world)
    made = {bucket for pod in pods for bucket in _made_buckets(pod)}
    for pod in pods:
        for container in [*(pod.pod["spec"].get("initContainers") or []), *pod.pod["spec"]["containers"]]:
            where = f"{pod.where} {container['name']}"
            env = programs.environment(world, pod.pod, container)
            texts = (*_server(world, pod, container, env), *_literal(container))
            texts = (*texts, *_credentials(world, pod, container, env))
            texts = (*texts, *_store(pod, container, env, identities, made))
            yield from (f"{where}: {text}" for text in texts)


def _server(world: World, pod: Built, container: Object, env: dict[str, str]) -> Iterator[str]:
    files = programs.files(world, pod.pod, container)
    name = programs.program(container)
    if name == "mlflow":
        if programs.flag(container, "app-name") != "basic-auth":
            yield "command has no --app-name basic-auth: the server asks for no login"
        config = files.get(env.get("MLFLOW_AUTH_CONFIG_PATH", ""), "")
        if not config:
            yield f"MLFLOW_AUTH_CONFIG_PATH {env.get('MLFLOW_AUTH_CONFIG_PATH')} is no mounted file"
        settings = dict(re.findall(r"^\s*(\w+)\s*=\s*(\S+)", config, re.MULTILINE))
        if settings.get("default_permission") not in ("READ", "NO_PERMISSIONS"):
            yield f"default_permission {settings.get('default_permission')}: everybody may change others' runs"
        if settings.get("database_uri") != env.get("MLFLOW_BACKEND_STORE_URI"):
            yield "database_uri of basic_auth.ini is not MLFLOW_BACKEND_STORE_URI"
        if settings.get("admin_username") != env.get("MLFLOW_AUTH_ADMIN_USERNAME"):
            yield "admin_username of basic_auth.ini is not MLFLOW_AUTH_ADMIN_USERNAME"
        for variable in ("MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
            if not env.get(variable):
                yield f"{variable} is not set: the server takes a default that everybody knows"
        origins = env.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "").split(",")
        if "http://localhost:5000" not in origins or any("*" in origin for origin in origins):
            yield f"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS {origins}, not the forwarded port's"
    if name == "postgres":
        if "--auth-host=scram-sha-256" not in env.get("POSTGRES_INITDB_ARGS", "").split():
            yield f"POSTGRES_INITDB_ARGS {env.get('POSTGRES_INITDB_ARGS')!r}: no --auth-host=scram-sha-256"
        if env.get("POSTGRES_HOST_AUTH_METHOD", "scram-sha-256") != "scram-sha-256":
            yield f"POSTGRES_HOST_AUTH_METHOD {env['POSTGRES_HOST_AUTH_METHOD']}"
        if not files.get(env.get("POSTGRES_PASSWORD_FILE", "")):
            yield f"POSTGRES_PASSWORD_FILE {env.get('POSTGRES_PASSWORD_FILE')} is no mounted file"
    if name == "weed":
        config = files.get(programs.flag(container, "s3.config"), "")
        if not config or not json.loads(config).get("identities"):
            yield (
                f"-s3.config {programs.flag(container, 's3.config')!r} "
                "names no identities: everybody may do everything"
            )
        if programs.flag(container, "s3.iam", "true") != "false":
            yield "-s3.iam is not false: identities can be made over the network"


def _literal(container: Object) -> Iterator[str]:
    for variable in container.get("env") or []:
        if SECRET_NAME.search(variable["name"]) and variable.get("value"):
            yield f"env {variable['name']} is written into the manifest"
    references = [str((each.get("valueFrom") or {}).get("secretKeyRef")) for each in container.get("env") or []]
    for reference in {each for each in references if each != "None" and references.count(each) > 1}:
        yield f"env has two variables of one secret, {reference}"


def _credentials(world: World, pod: Built, container: Object, env: dict[str, str]) -> Iterator[str]:
    """Logins of MLflow and of the database."""
    login = world.secrets.get((pod.namespace, "mlflow-login"), {})
    mine = (env.get("MLFLOW_TRACKING_USERNAME"), env.get("MLFLOW_TRACKING_PASSWORD"))
    trains = pod.namespace == "vgg" and mine != (None, None)
    if trains and mine != (login.get("username"), login.get("password")):
        yield "MLFLOW_TRACKING_USERNAME and _PASSWORD are not those of Secret mlflow-login"
    for credential, address in ADDRESS_OF.items():
        if credential in env and not env.get(address) and container["name"] != "wait-gcs-ready":
            yield f"has {credential} and no {address}: it goes to another server, or to none"
        if address in env and not env.get(credential):
            yield f"has {address} and no {credential}"
    if re.search(r"\bpg_\w+ --host", "\n".join(programs.words(container))) and not env.get("PGPASSWORD"):
        yield "calls PostgreSQL's tools and has no PGPASSWORD"
    if pod.where == "Job/mlflow-users":
        if mine not in _administrators(world):
            yield "MLFLOW_TRACKING_USERNAME and _PASSWORD are not those of which MLflow makes its administrator"
        if (env.get("NEW_USERNAME"), env.get("NEW_PASSWORD")) != (login.get("username"), login.get("password")):
            yield "NEW_USERNAME and NEW_PASSWORD are not those of Secret mlflow-login"
        trainers = world.secrets.get(("vgg", "mlflow-login"), {})
        if trainers != login:
            yield "Secret mlflow-login of vgg-services is not that of vgg: trainings cannot log in"
    uri = urlsplit(env.get("MLFLOW_BACKEND_STORE_URI", ""))
    for database in (p for p in built(world.objects) if p.where == "StatefulSet/postgres"):
        first = database.pod["spec"]["containers"][0]
        theirs = programs.environment(world, database.pod, first)
        password = programs.files(world, database.pod, first).get(theirs.get("POSTGRES_PASSWORD_FILE", ""))
        wanted = (theirs.get("POSTGRES_USER"), password, theirs.get("POSTGRES_DB"))
        if uri.scheme and (uri.username, uri.password, uri.path[1:]) != wanted:
            yield "MLFLOW_BACKEND_STORE_URI: user, password or database are not PostgreSQL's"
        if "PGPASSWORD" in env and env["PGPASSWORD"] != password:
            yield "PGPASSWORD is not PostgreSQL's"
    if pod.namespace != "vgg":
        return
    text = str(pod.pod["spec"])
    for namespace, name in world.secrets:
        if (
            namespace != "vgg"
            and (namespace, name) not in {("vgg-services", "mlflow-login")}
            and f"'{name}'" in text
        ):
            yield f"reads Secret {name}, which is a server's"


def _administrators(world: World) -> Iterator[tuple[str | None, str | None]]:
    """Name and password of the administrator that a server makes at its first start."""
    for pod in built(world.objects):
        for container in pod.pod["spec"]["containers"]:
            if programs.program(container) == "mlflow":
                env = programs.environment(world, pod.pod, container)
                yield env.get("MLFLOW_AUTH_ADMIN_USERNAME"), env.get("MLFLOW_AUTH_ADMIN_PASSWORD")


def _identities(world: World) -> dict[str, Object]:
    """Access key -> identity of the object store in the cluster; empty where it is managed."""
    config = world.secrets.get(("vgg-services", "s3-config"), {}).get("s3.json", "{}")
    found = {}
    for identity in json.loads(config).get("identities") or []:
        for pair in identity["credentials"]:
            found[pair["accessKey"]] = {**identity, "secret": pair["secretKey"]}
    return found


def _made_buckets(pod: Built) -> list[str]:
    if pod.where != "Job/s3-buckets":
        return []
    text = "\n".join(programs.words(pod.pod["spec"]["containers"][0]))
    listed = re.search(r"in \(([^)]*)\)", text)
    return re.findall(r"\"([\w-]+)\"", listed[1] if listed else "")


def _store(
    pod: Built, container: Object, env: dict[str, str], identities: dict[str, Object], made: set[str]
) -> Iterator[str]:
    """The store's key is known, is no administrator's, and allows the buckets that are named."""
    if not identities:
        return
    key, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    texts = [*env.values(), *programs.words(container)]
    if container["name"] == "ray-head":
        texts.append(str(pod.owner["spec"].get("entrypoint", "")))
    buckets = {bucket for text in texts for bucket in BUCKET.findall(text)} - {"{bucket}"}
    if key is None and secret is None:
        if buckets:
            yield f"names buckets {sorted(buckets)} and has no AWS_ACCESS_KEY_ID"
        return
    identity = identities.get(str(key))
    if identity is None or identity["secret"] != secret:
        yield "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are no pair of Secret s3-config"
        return
    admin = "Admin" in identity["actions"]
    if admin != (pod.where in ADMINISTERS and "s3-admin" in ADMINISTERS[pod.where]):
        yield f"AWS_ACCESS_KEY_ID is identity {identity['name']}'s, with actions {identity['actions']}"
    for bucket in buckets:
        if not admin and not {f"Read:{bucket}", f"Write:{bucket}", f"List:{bucket}"} <= set(
            identity["actions"]
        ):
            yield f"identity {identity['name']} may not read, write and list bucket {bucket}"
        if bucket not in made:
            yield f"bucket {bucket} is not among those that Job/s3-buckets makes: {sorted(made)}"
    others = {action.partition(":")[2] for action in identity["actions"]} - buckets
    if not admin and buckets and others:
        yield f"identity {identity['name']} may use buckets {sorted(others)}, which this does not name"
