"""Reads and decodes files, and proves by the readers' decoder that what is packed gives the same pixels."""

import errno
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from cli.errors import UserError
from pipelines.jpeg.markers import NotTranscoded
from pipelines.jpeg.transcoding import transcode
from pipelines.packing.decode import Decoded, decode
from pipelines.packing.encode import encode, shown
from pipelines.packing.prover import process_prover
from pipelines.packing.proving_process import BATCH
from pipelines.sources.source import SourceFile

BATCH_PIXELS = 16_000_000
"""Pixels that wait to be proved together."""

SMALL_PIXELS = 96 * 96
"""Smaller images stay as they are: to decode all of one takes no longer."""

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


def proved_images(files: Iterable[SourceFile], in_segments: bool) -> Iterator[tuple[SourceFile, Found]]:
    """Each file with its image, in order. A file that DALI decodes differently than PIL is encoded anew.

    `in_segments`: whether JPEG files are given restart markers; that is proved as well.

    UserError if this machine cannot read a file.
    """
    waiting: list[tuple[SourceFile, Found]] = []
    pixels = 0
    for file in files:
        found = decode(_read(file))
        waiting.append((file, found))
        pixels += 0 if isinstance(found, str) else found.height * found.width
        if len(waiting) == BATCH or pixels >= BATCH_PIXELS:
            yield from _proved(waiting, in_segments)
            waiting, pixels = [], 0
    yield from _proved(waiting, in_segments)


def _proved(waiting: list[tuple[SourceFile, Found]], in_segments: bool) -> Iterator[tuple[SourceFile, Found]]:
    """Each file in the first of its forms that DALI decodes to its pixels."""
    forms = [_forms(found, in_segments) for _, found in waiting if isinstance(found, Decoded)]
    firsts = [next(each) for each in forms]
    proofs = zip(firsts, forms, _sound(firsts), strict=True)
    for file, found in waiting:
        if isinstance(found, str):
            yield file, found
            continue
        first, others, sound = next(proofs)
        if sound:
            yield file, first
        else:
            sound_ones = (form for form in others if _sound([form])[0])
            yield file, next(sound_ones, "DALI cannot decode it, nor its pixels encoded anew")


def _sound(images: list[Decoded]) -> list[bool]:
    return process_prover().proved([(image.data, image.pixels_HWC) for image in images])


def _forms(image: Decoded, in_segments: bool) -> Iterator[Decoded]:
    """The image in files to be tried in turn: its own, encoded anew as a JPEG if it was one, as a PNG.

    A JPEG is tried with restart markers first.
    """
    yield from _with_segments(image, in_segments)
    for photograph in (True, False) if image.photograph else (False,):
        data = encode(image.pixels_HWC, photograph=photograph)
        yield from _with_segments(replace(image, data=data, pixels_HWC=shown(data)), in_segments)


def _with_segments(image: Decoded, in_segments: bool) -> Iterator[Decoded]:
    """The image in a file with restart markers, if it can be transcoded, then as it is."""
    if not in_segments:
        yield image
        return
    if image.height * image.width < SMALL_PIXELS:
        yield replace(image, kept=f"fewer than {SMALL_PIXELS:,} pixels")
        return
    try:
        transcoded = transcode(image.data)
        yield replace(image, data=transcoded.data, segments=transcoded.lengths.astype("<u2").tobytes())
        yield replace(image, kept="DALI decodes it differently with restart markers")
    except NotTranscoded as reason:
        yield replace(image, kept=str(reason))


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
