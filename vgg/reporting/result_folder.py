"""The folder that a result is written to: never one that holds the result of another test."""

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.testing import posteriors
from vgg.testing.identity import NAME_DIGITS

POSTERIORS = "posteriors.arrow"


def result_folder(parent: Folder, name: str, identity: str) -> Folder:
    """The child of this name or, if that holds another test's result, one with the identity in its name."""
    folder = parent.child(name)
    return parent.child(f"{name}-{identity[:NAME_DIGITS]}") if holds_another(folder, identity) else folder


def holds_another(folder: Folder, identity: str) -> bool:
    """Whether the folder has a readable result of another test."""
    if not folder.exists(POSTERIORS):
        return False
    try:
        return posteriors.open_file(folder, POSTERIORS).identity != identity
    except UserError:  # damaged: of no use to anybody
        return False
