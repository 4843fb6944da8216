"""The files below a folder, as people keep their images: in folders of folders, and through links."""

import os
from pathlib import Path
from typing import NoReturn

from cli.errors import UserError


def files_below(folder: Path) -> list[Path]:
    """Sorted, with broken links and special files; through links to folders, of which each counts once. Names
    that begin with a dot are passed over, of folders too.

    UserError where a link leads to a folder that it lies in; OSError if a folder cannot be listed.
    """
    found: list[Path] = []
    start, seen = os.path.realpath(folder), set[str]()
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(parent)
        if real != start and start.startswith(real.rstrip("/") + "/"):
            raise UserError(f"{parent} is a link to a folder that it lies in: remove it")
        folders[:] = [] if real in seen else sorted(name for name in folders if name[0] != ".")
        if real not in seen:
            found += [Path(parent, name) for name in files if name[0] != "."]
        seen.add(real)
    return sorted(found)


def _raise(error: OSError) -> NoReturn:
    raise error
