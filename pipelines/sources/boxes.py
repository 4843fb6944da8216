"""Bounding boxes of ImageNet's XML annotations, from its archives or from loose files."""

import tarfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path, PurePosixPath

from pipelines.shards.manifest import SetAside
from pipelines.sources.archive import CORRUPT, corrupt

FOLDERS = ("Annotations", "Annotation", "bbox", "ILSVRC2012_bbox_train", "ILSVRC2012_bbox_val", "boxes")
"""Folders of loose annotations, which are neither splits nor classes."""


EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class Boxes:
    """Boxes by the stem of the image's name."""

    by_stem: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    set_aside: list[SetAside] = field(default_factory=list)
    """Annotations that cannot be used; their images are packed without boxes."""

    def of(self, stem: str) -> tuple[tuple[float, ...], ...]:
        """Boxes of an image; none where it has no annotation."""
        return self.by_stem.get(stem, ())

    @classmethod
    def beside(cls, path: Path) -> "Boxes":
        """Those of a folder: ILSVRC2012_bbox_*.tar.gz or .tgz, and loose XML in one of `FOLDERS`.

        ValueError where an archive is corrupt.
        """
        found = cls()
        for archive in sorted([*path.glob("ILSVRC2012_bbox_*.tar.gz"), *path.glob("ILSVRC2012_bbox_*.tgz")]):
            found._read_archive(archive)
        for folder in FOLDERS:
            for file in sorted((path / folder).rglob("*.xml")):
                found._add(str(file.relative_to(path)), file.read_bytes())
        return found

    def _read_archive(self, path: Path) -> None:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    stream = archive.extractfile(member) if member.name.endswith(".xml") else None
                    if stream is not None:
                        self._add(member.name, stream.read())
        except CORRUPT as error:
            raise corrupt(path, error) from error

    def _add(self, name: str, xml: bytes) -> None:
        try:
            boxes = [
                tuple(float(box.findtext(edge, "")) for edge in EDGES)
                for box in ET.fromstring(xml).iter("bndbox")
            ]
        except (ET.ParseError, ValueError) as error:
            self.set_aside.append(SetAside("boxes", name, f"no annotation with four edges a box: {error}"))
            return
        if not all(isfinite(edge) for box in boxes for edge in box):
            self.set_aside.append(SetAside("boxes", name, "a box with an edge that is no number"))
            return
        self.by_stem[PurePosixPath(name).stem] = tuple(boxes)
