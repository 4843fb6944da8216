"""Whether two folders are one, or one lies in the other, through links and however their paths are written."""

import os
import posixpath

from cli.errors import UserError
from pipelines.storage.folder import Folder


def require_apart(written: Folder, read: Folder, *, either_way: bool = False) -> None:
    """UserError where a command would write into what it reads; `either_way`: or around it."""
    for inner, outer in ((written, read), (read, written)):
        if _lies_in(inner, outer) and (either_way or inner is written):
            relation = "is" if _lies_in(outer, inner) else "lies in"
            raise UserError(f"{inner.described} {relation} {outer.described}: choose a folder of its own")


def require_different(written: Folder, read: Folder) -> None:
    """UserError where a command would write over what it reads."""
    if _lies_in(written, read) and _lies_in(read, written):
        raise UserError(f"{written.described} is {read.described}: choose a folder of its own")


def _lies_in(inner: Folder, outer: Folder) -> bool:
    if inner.fs != outer.fs:
        return False
    inner_path, outer_path = _real_path(inner), _real_path(outer)
    return inner_path == outer_path or inner_path.startswith(outer_path.rstrip("/") + "/")


def _real_path(folder: Folder) -> str:
    """Without links, double slashes and dots."""
    if folder.local is not None:
        return os.path.realpath(folder.local)
    return posixpath.normpath(folder.path)
