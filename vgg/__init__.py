"""The VGG study. In Python: `net = vgg.load("runs/d")`, then `net.predict(["cat.jpg"])`; see `vgg.inference`.

Nothing is imported before it is used: `import vgg` takes no time.
"""

from typing import TYPE_CHECKING, Any

from cli.interruption import one_line_instead_of_a_traceback, runs_as_command

if TYPE_CHECKING:
    from vgg.inference import LoadedNet as LoadedNet
    from vgg.inference import features as features
    from vgg.inference import load as load

    __version__: str

__all__ = ["LoadedNet", "__version__", "features", "load"]


if runs_as_command():
    one_line_instead_of_a_traceback()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("vgg-study")
    if name in ("load", "features", "LoadedNet"):
        from vgg import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'vgg' has no attribute {name!r}")
