"""Reads and decodes files, and proves by the readers' decoder that what is packed gives the same pixels."""

import errno
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from cli.errors import UserError
from pipelines.packing.decode import Decoded, decode
from pipelines.packing.encode import encode, shown
from pipelines.packing.prover import process_prover
from pipelines.packing.proving_process import BATCH
from pipelines.sources.source import SourceFile

BATCH_PIXELS = 16_000_000
"""Pixels that wait to be proved together."""

PATIENCE_SECONDS = 30.0
"""How long a file server that does not answer is tried again."""

TRANSIENT = {
    errno.EAGAIN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
"""Errors of reading that may pass."""

Found = Decoded | str
"""An image, or the reason why it is skipped."""


def proved_images(files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, Found]]:
    """Each file with its image, in order. A file that DALI decodes differently than PIL is encoded anew.

    UserError if this machine cannot read a file.
    """
    waiting: list[tuple[SourceFile, Found]] = []
    pixels = 0
    for file in files:
        found = decode(_read(file))
        waiting.append((file, found))
        pixels += 0 if isinstance(found, str) else found.height * found.width
        if len(waiting) == BATCH or pixels >= BATCH_PIXELS:
            yield from _proved(waiting)
            waiting, pixels = [], 0
    yield from _proved(waiting)


def _proved(waiting: list[tuple[SourceFile, Found]]) -> Iterator[tuple[SourceFile, Found]]:
    prove = process_prover().proved
    images = [found for _, found in waiting if isinstance(found, Decoded)]
    sound = iter(prove([(image.data, image.pixels_HWC) for image in images]))
    for file, found in waiting:
        if isinstance(found, Decoded) and not next(sound):
            yield file, _encoded_anew(found)
        else:
            yield file, found


def _encoded_anew(image: Decoded) -> Found:
    """The image in a file that DALI decodes to its pixels: a JPEG if it was one, else a PNG."""
    for photograph in (True, False) if image.photograph else (False,):
        data = encode(image.pixels_HWC, photograph=photograph)
        pixels_HWC = shown(data)
        if process_prover().proved([(data, pixels_HWC)])[0]:
            return replace(image, data=data, pixels_HWC=pixels_HWC)
    return "DALI cannot decode it, nor its pixels encoded anew"


def _read(file: SourceFile) -> bytes:
    """The bytes of a file. UserError if this machine cannot read it: that says nothing about the image."""
    retrying = Retrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_exponential(multiplier=0.5, max=5),
        stop=stop_after_delay(PATIENCE_SECONDS),
        before_sleep=partial(_tell, file.key),
        reraise=True,
    )
    try:
        return retrying(file.content.read)
    except OSError as error:
        raise UserError(
            f"{file.key} of the source cannot be read on {platform.node()}: {error.strerror or error}; every "
            "node must be able to read all files, and the source must not change: correct that, or remove "
            "the file, and repeat the command"
        ) from error


def _may_pass(error: BaseException) -> bool:
    """Whether a file server or its network may answer again."""
    return isinstance(error, OSError) and error.errno in TRANSIENT


def _tell(key: str, state: RetryCallState) -> None:
    assert state.outcome is not None
    print(f"{key} cannot be read, trying again: {state.outcome.exception()}", file=sys.stderr, flush=True)
