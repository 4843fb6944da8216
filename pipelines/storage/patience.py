"""Which errors of a store may pass and which do not, and waiting for a store that is away.

pyarrow tells the kinds apart only in the text of an OSError. `tests/pipelines/test_patience.py` has the texts
of its S3 file system where a server refuses connections, is starting, answers 5xx or 429, or refuses a key.
"""

import errno
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential
from tenacity.nap import sleep_using_event

from cli.errors import Failure, UserError

Value = TypeVar("Value")

_MAY_PASS = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING|REQUEST_TIMEOUT)"
    r"|HTTP status (5\d\d|429|408)\b"
)
_UNKNOWN_HOST = re.compile(r"(could not|failed to) resolve", re.IGNORECASE)
_REFUSED_KEY = re.compile(
    r"AWS Error (ACCESS_DENIED|SIGNATURE_DOES_NOT_MATCH|INVALID_ACCESS_KEY_ID|INVALID_SIGNATURE"
    r"|UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION_TOKEN)"
)
_NETWORK_ERRNOS = {
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENOTCONN,  # what FUSE and NFS answer while their server is away
    errno.ESTALE,
    errno.ETIMEDOUT,
}


class StoreUnavailable(Failure):
    """A store that stayed away, refused or failed while a job ran, or a disk that did."""


@dataclass(frozen=True)
class Patience:
    """How long a store that is away is waited for, and what it is if it stays away."""

    seconds: float
    raises: type[UserError] | type[Failure]
    knows_host: bool = True
    """Whether the host had been resolved before: then a name that cannot be resolved may pass too."""


FIRST_CONTACT = Patience(20.0, UserError, knows_host=False)
"""Before anything has started: an address where nothing answers is probably wrong."""

UNDERWAY = Patience(600.0, StoreUnavailable)
"""While a job runs: nobody waits at the terminal, and what was computed would be lost."""

FORGOTTEN_SECONDS = 120.0
"""An outage that no call has met for so long is over."""


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later: the store is away, overloaded or starting."""
    if not isinstance(error, OSError):
        return False
    if isinstance(error, ConnectionError) or error.errno in _NETWORK_ERRNOS:
        return True
    return bool(_MAY_PASS.search(str(error)))


def reason(error: OSError) -> str:
    """What went wrong, in the system's or the store's own words, in one line."""
    if error.errno is not None and error.strerror and "Detail:" not in error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    code = re.search(r"AWS Error ([A-Z_]+(?: \(HTTP status \d+\))?) during \w+ operation: (.*)", text)
    if code is None:
        return text.partition(" Detail:")[0]
    if _REFUSED_KEY.search(text):
        return f"access denied ({code[1]}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    said = code[2].partition("; Details")[0].rstrip(".")
    return code[1] if said in ("", "No response body") else f"{code[1]}: {said}"


def patiently(
    call: Callable[[], Value],
    patience: Patience,
    store: str,
    stopped: Event | None = None,
    *,
    asks: bool = True,
) -> Value:
    """What `call` returns, called again for as long as its errors may pass, `patience` lasts and nothing
    `stopped` it. Its last error is raised as it is.

    `store`: how messages name it. That it is waited for is said once on stderr, and once that it is back. What
    other calls of this process have waited for it counts: one that stayed away is asked once more by each.
    `asks`: whether what `call` returns is the store's answer, or may be made without it.
    """

    def passes(error: BaseException) -> bool:
        return may_pass(error) and (patience.knows_host or not _UNKNOWN_HOST.search(str(error)))

    def give_up(_: RetryCallState) -> bool:
        return _outages.lasted(store) >= patience.seconds or (stopped is not None and stopped.is_set())

    def tell(state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert isinstance(error, OSError)
        _outages.tell(store, reason(error), patience.seconds)

    retrying = Retrying(
        retry=retry_if_exception(passes),
        wait=wait_exponential(multiplier=0.2, max=5),
        stop=give_up,
        before_sleep=tell,
        sleep=time.sleep if stopped is None else sleep_using_event(stopped),
        reraise=True,
    )
    _outages.forget_an_old_one(store)
    try:
        value = retrying(call)
    except OSError as error:
        if not may_pass(error):  # it answered; an outage that outlasts this call may be another's to wait for
            _outages.end(store)
        raise
    if asks:
        _outages.end(store)
    return value


@dataclass
class _Outage:
    since: float
    last: float
    """When a call failed."""
    is_told: bool = False


class _Outages:
    """The stores that are away, as far as this process knows: its threads wait for one together."""

    def __init__(self) -> None:
        self._of: dict[str, _Outage] = {}
        self._lock = Lock()

    def lasted(self, store: str) -> float:
        """A call has failed: seconds since the first that did."""
        now = time.monotonic()
        with self._lock:
            outage = self._of.setdefault(store, _Outage(now, now))
            outage.last = now
            return now - outage.since

    def forget_an_old_one(self, store: str) -> None:
        """Nobody has asked for long: it may have been back meanwhile."""
        with self._lock:
            if store in self._of and time.monotonic() - self._of[store].last > FORGOTTEN_SECONDS:
                del self._of[store]

    def tell(self, store: str, why: str, seconds: float) -> None:
        """That it is waited for; of several threads, one says so."""
        with self._lock:
            outage = self._of.get(store)
            if outage is None or outage.is_told:
                return
            outage.is_told = True
        print(f"{store} does not answer ({why}): waiting up to {seconds:g} s", file=sys.stderr, flush=True)

    def end(self, store: str) -> None:
        """It has answered."""
        if store not in self._of:  # the usual case takes no lock
            return
        with self._lock:
            outage = self._of.pop(store, None)
        if outage is not None and outage.is_told:
            waited = time.monotonic() - outage.since
            print(f"{store} answers again after {waited:.0f} s", file=sys.stderr, flush=True)


_outages = _Outages()
