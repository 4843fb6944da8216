"""Waits until a server process that was just started is ready."""

import urllib.error
import urllib.request
from collections.abc import Callable

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from cluster.processes import ProcessIdentity

POLL_SECONDS = 0.3
REQUEST_TIMEOUT_SECONDS = 5.0


def wait_until_ready(server: ProcessIdentity, ready: Callable[[], bool], timeout_seconds: float) -> bool:
    """Poll until `ready()` holds. False where the process ended or `timeout_seconds` passed before."""
    poll = Retrying(
        retry=retry_if_result(lambda is_ready: not is_ready and server.alive()),
        wait=wait_fixed(POLL_SECONDS),
        stop=stop_after_delay(timeout_seconds),
        retry_error_callback=lambda _: False,
    )
    return poll(ready)


def http_server_answers(url: str) -> bool:
    """Whether a GET request succeeds, or fails with 401: such a server is up and asks for a token."""
    try:
        with urllib.request.urlopen(url, timeout=REQUEST_TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
