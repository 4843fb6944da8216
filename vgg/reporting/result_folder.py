"""The folder that a result is written to: never one that holds the result of another test."""

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.testing import posteriors
from vgg.testing.identity import NAME_DIGITS

POSTERIORS = "posteriors.arrow"


def result_folder(parent: Folder, name: str, identity: str) -> Folder:
    """The child of this name or, if that holds another test's result, one with the identity in its name."""
    names = (name, *(f"{name}-{identity[:digits]}" for digits in (NAME_DIGITS, 2 * NAME_DIGITS)))
    folders = [parent.child(each) for each in names]
    return next((each for each in folders if not holds_another(each, identity)), parent.child(identity))


def holds_another(folder: Folder, identity: str) -> bool:
    """Whether the folder has a readable result of another test."""
    if not folder.exists(POSTERIORS):
        return False
    try:
        return posteriors.open_file(folder, POSTERIORS).identity != identity
    except UserError:  # damaged: of no use to anybody
        return False
