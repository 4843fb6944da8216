"""Fixtures shared by the suite."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets, which live beside the project and are never part of it."""
    folder = Path(os.environ.get("VGG_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is absent: no folder {folder} (set VGG_SHARED_DATA)")
    return folder
