"""Bounding boxes from ImageNet's XML annotations, in their archives or as loose files."""

import tarfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path, PurePosixPath

from pipelines.shards.boxes import Box
from pipelines.shards.manifest import SkippedFile
from pipelines.sources.archive import CORRUPT, corrupt_archive

FOLDERS = ("Annotations", "Annotation", "bbox", "ILSVRC2012_bbox_train", "ILSVRC2012_bbox_val", "boxes")
"""Folders of loose annotation files, which are neither splits nor classes."""

EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class Boxes:
    """Bounding boxes by the stem of the image's file name."""

    by_stem: dict[str, tuple[Box, ...]] = field(default_factory=dict)
    skipped: list[SkippedFile] = field(default_factory=list)
    """Annotations that cannot be used; their images are packed without boxes."""

    def for_image(self, stem: str) -> tuple[Box, ...]:
        """Boxes of an image; empty if it has no annotation."""
        return self.by_stem.get(stem, ())

    @classmethod
    def find_in(cls, folder: Path) -> "Boxes":
        """Read a folder's ILSVRC2012_bbox_*.tar.gz or .tgz, and the loose XML files in one of `FOLDERS`.

        UserError if an archive is corrupt.
        """
        found = cls()
        for archive in sorted(
            [*folder.glob("ILSVRC2012_bbox_*.tar.gz"), *folder.glob("ILSVRC2012_bbox_*.tgz")]
        ):
            found._read_archive(archive)
        for name in FOLDERS:
            for file in sorted((folder / name).rglob("*.xml")):
                found._add(str(file.relative_to(folder)), file.read_bytes())
        return found

    def _read_archive(self, path: Path) -> None:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    stream = archive.extractfile(member) if member.name.endswith(".xml") else None
                    if stream is not None:
                        self._add(member.name, stream.read())
        except CORRUPT as error:
            raise corrupt_archive(path, error) from error

    def _add(self, name: str, xml: bytes) -> None:
        try:
            boxes = _boxes(ET.fromstring(xml))
        except (ET.ParseError, ValueError, OverflowError) as error:
            reason = f"no annotation with four edges a box and a size in pixels: {error}"
            self.skipped.append(SkippedFile("boxes", name, reason))
            return
        if not all(isfinite(edge) for box in boxes for edge in box[:4]):
            self.skipped.append(SkippedFile("boxes", name, "a box with an edge that is no number"))
            return
        self.by_stem[PurePosixPath(name).stem] = tuple(boxes)


def _boxes(annotation: ET.Element) -> list[Box]:
    """A box for each object that has one; those of an object's parts (VOC's heads and hands) are not read.

    A size of 0, as some annotations have it, is none. ValueError, OverflowError where a number is none.
    """
    height, width = (int(float(annotation.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    boxes = []
    for found in annotation.iter("object"):
        if (box := found.find("bndbox")) is not None:
            xmin, ymin, xmax, ymax = (float(box.findtext(edge, "")) for edge in EDGES)
            label = (found.findtext("name") or "").strip()
            boxes.append(Box(xmin, ymin, xmax, ymax, label, height, width))
    return boxes
