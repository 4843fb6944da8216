"""The run's folder is a folder like that of the data."""

from pipelines.folder import Folder

__all__ = ["Folder"]
