"""Whether the training of a checkpoint has come to its end."""

from collections.abc import Mapping
from typing import Any

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.recipes.difference import START_FROM, flatten_saved


def is_finished(reference: str, metadata: Mapping[str, Any], flag: str = "", *, underway: bool = False) -> bool:
    """Whether the run that a checkpoint lies in has a result.json of the very same settings, seed and data.

    `reference`: the run's folder or the checkpoint's; `metadata`: the checkpoint's. A training that goes on
    longer than one that has ended in the same folder has not ended by that. A checkpoint that was copied away
    from its run is of a training of which nobody knows. `flag`, `underway`: as of `open_run`.
    """

    def folder(uri: str) -> Folder:
        return Folder(uri, flag).underway() if underway else Folder(uri, flag)

    run = folder(_run_of(folder(reference)))
    if not run.exists("result.json"):
        return False
    try:
        result = run.read_json("result.json")
        settings = {key: value for key, value in result["settings"].items() if key != START_FROM}
        ended = {"seed": result["seed"], "data": result["data"]["digest"], **settings}
        recipe = {key: value for key, value in flatten_saved(metadata["recipe"]).items() if key != START_FROM}
        own = {"seed": metadata["seed"], "data": metadata["data"], **recipe}
    except (UserError, KeyError, TypeError, AttributeError):
        return False
    return ended == own


def _run_of(folder: Folder) -> str:
    """The run's folder of a checkpoint's, RUN/checkpoints/NAME; the folder itself if it is no checkpoint's."""
    if not folder.exists("manifest.json"):
        return folder.uri
    base, mark, query = (str(folder.local) if folder.local else folder.uri).partition("?")
    return f"{base.rsplit('/', 2)[0]}{mark}{query}"
