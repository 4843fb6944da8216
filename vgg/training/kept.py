"""What is left of a training that ends before its time, for people."""

from cli.errors import Failure, UserError
from pipelines.storage.folder import Folder
from vgg.weights import retention


def kept(out: str) -> str:
    """The newest checkpoint of a run's folder, and how the training goes on."""
    try:
        last = retention.read_index(Folder(out)).get("last")
    except (UserError, Failure) as error:
        return f"its checkpoints cannot be read now ({error}); the same command goes on from the newest"
    if last is None:
        return f"no checkpoint had been saved in {out}; the same command starts it again"
    return f"step {retention.step_of(last):,} is kept in {out}; the same command goes on from there"
