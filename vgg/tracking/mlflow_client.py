"""MLflow's client as the sender needs it: no retries of its own, errors sorted by whether to try again."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests

if TYPE_CHECKING:
    from mlflow import MlflowClient

TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
UPLOAD_TIMEOUT_SECONDS = "900"

# Read by MLflow's client on first use. It must report a server that is down at once: the sender retries.
for variable, default in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    TIMEOUT_VARIABLE: "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}.items():
    os.environ.setdefault(variable, default)

# HTTP statuses that concern the sender or the moment rather than the request itself.
RETRIED_CLIENT_ERRORS = {401, 403, 407, 408, 429}
STORE_CLIENTS = {"urllib3", "botocore", "boto3", "s3transfer", "google", "azure"}
"""Packages by which MLflow's client uploads to a store directly; their errors may pass."""
MAX_REASON_CHARACTERS = 300


class ServerUnavailable(Exception):
    """The server cannot be reached, is failing or does not authorise us: try again later."""


class SpoolInUse(ServerUnavailable):
    """Another process delivers this spool."""


class Undeliverable(Exception):
    """This event can never be delivered, whatever the server is like: it is damaged, or an error of ours."""


class RequestRejected(Undeliverable):
    """The server will never accept this request."""


def connect(uri: str) -> "MlflowClient":
    """A client of the server at `uri`, which is also the one that `mlflow`'s module functions use."""
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise every error as ServerUnavailable if it may pass, else as RequestRejected or Undeliverable."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (ServerUnavailable, Undeliverable):
        raise
    except MlflowException as error:
        reason = str(_root_cause(error)).splitlines()[0][:MAX_REASON_CHARACTERS]
        # A 404 that MLflow did not raise itself is that of a proxy without a server behind it.
        if error.error_code != "ENDPOINT_NOT_FOUND" and _is_permanent(error.get_http_status_code()):
            raise RequestRejected(reason) from error
        raise ServerUnavailable(reason) from error
    except requests.HTTPError as error:
        if error.response is not None and _is_permanent(error.response.status_code, error.response.text):
            raise RequestRejected(str(error)) from error
        raise ServerUnavailable(str(error)) from error
    except requests.RequestException as error:
        raise ServerUnavailable(str(_root_cause(error))) from error
    except (ConnectionError, TimeoutError) as error:
        raise ServerUnavailable(str(error)) from error
    except Exception as error:
        raise _of_store_or_ours(error) from error


@contextmanager
def own_work() -> Iterator[None]:
    """Raise every error as Undeliverable: nothing of this concerns the server."""
    try:
        yield
    except Exception as error:
        raise Undeliverable(_described(error)) from error


@contextmanager
def upload_timeout() -> Iterator[None]:
    """Allow a server minutes to store a large file: MLflow's request timeout covers that time as well."""
    before = os.environ[TIMEOUT_VARIABLE]
    os.environ[TIMEOUT_VARIABLE] = max(before, UPLOAD_TIMEOUT_SECONDS, key=float)
    try:
        yield
    finally:
        os.environ[TIMEOUT_VARIABLE] = before


def _root_cause(error: BaseException) -> BaseException:
    """The innermost error: "Connection refused" rather than the four layers around it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _is_permanent(status: int, body: str = "") -> bool:
    """Whether an HTTP status rejects the request itself.

    `body`: of a 404 where MLflow has not looked itself. Its own name an error code; a proxy's, with no server
    behind it, do not.
    """
    if status == 404 and body and "error_code" not in body:
        return False
    return 400 <= status < 500 and status not in RETRIED_CLIENT_ERRORS


def _of_store_or_ours(error: Exception) -> Exception:
    if type(error).__module__.partition(".")[0] in STORE_CLIENTS:
        return ServerUnavailable(_described(error))
    return Undeliverable(_described(error))


def _described(error: Exception) -> str:
    text = str(error).strip() or "no reason given"
    return f"{type(error).__name__}: {text.splitlines()[0][:MAX_REASON_CHARACTERS]}"
