"""ILSVRC-2012's development kit: the classes, and the labels of the validation images."""

import io
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from cli.errors import UserError
from pipelines.sources.archive import CORRUPT, corrupt_archive

TRUTH, META, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "synsets.txt"


@dataclass(frozen=True)
class Synset:
    """A class of ILSVRC-2012."""

    number: int
    """By which the ground truth names it."""
    wnid: str
    """WordNet identifier."""
    words: str


@dataclass(frozen=True)
class DevelopmentKit:
    """What the development kit says."""

    truth: list[int]
    """Class number of each validation image."""
    synsets: list[Synset]

    @classmethod
    def read(cls, folder: Path) -> "DevelopmentKit":
        """Read the kit's files, loose below `folder` or in its ILSVRC2012_devkit*.tar.gz.

        A synsets.txt may stand in for meta.mat: one line per class number, counted from 1, with the WNID and,
        after it, the words. UserError naming what is missing, corrupt or malformed.
        """
        found = {file.name: file.read_bytes() for file in sorted(folder.rglob("*")) if _is_wanted(file)}
        for kit in sorted(folder.glob("ILSVRC2012_devkit*.tar.gz")):
            found |= _read_archive(kit)
        if TRUTH not in found or not {META, SYNSETS} & set(found):
            lacking = META if TRUTH in found else TRUTH
            raise UserError(f"{folder} has no {lacking}: put the development kit (ILSVRC2012_devkit_t12) there")
        try:
            truth = [int(line) for line in found[TRUTH].split()]
        except ValueError as error:
            raise UserError(f"{TRUTH} of {folder} must hold one class number a line ({error})") from error
        listed = SYNSETS in found
        return cls(truth, _from_text(found[SYNSETS]) if listed else _from_matlab(folder, found[META]))


def _is_wanted(file: Path) -> bool:
    return file.name in (TRUTH, META, SYNSETS)


def _read_archive(kit: Path) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(kit) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and Path(member.name).name in (TRUTH, META):
                    found[Path(member.name).name] = stream.read()
    except CORRUPT as error:
        raise corrupt_archive(kit, error) from error
    return found


def _from_text(text: bytes) -> list[Synset]:
    lines = [line.split(maxsplit=1) for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return [Synset(number, line[0], line[-1].strip()) for number, line in enumerate(lines, start=1)]


def _from_matlab(folder: Path, meta: bytes) -> list[Synset]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        rows = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        return [Synset(int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"])) for row in rows]
    except (MatReadError, ValueError, KeyError, TypeError, IndexError, EOFError, OSError, zlib.error) as error:
        raise corrupt_archive(f"{META} of {folder}", error) from error
