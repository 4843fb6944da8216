"""Bounding boxes from ImageNet's XML annotations, in their archives or as loose files."""

import sys
import tarfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from itertools import takewhile
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
    """Of several annotations of one stem the last one's."""
    alike: dict[str, dict[tuple[str, ...], tuple[Box, ...]]] = field(default_factory=dict)
    """Stem -> folders -> boxes, of stems that several folders have."""
    _folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: list[SkippedFile] = field(default_factory=list)
    """Annotations that cannot be used; their images are packed without boxes."""

    def for_image(self, stem: str, folders: tuple[str, ...] = ()) -> tuple[Box, ...]:
        """Boxes of an image; empty if it has no annotation.

        `folders`: that it lies in, the innermost last. Of several annotations of its stem it has the one whose
        own folders are most like these, from the innermost on, and none if several are as much so.
        """
        alike = self.alike.get(stem)
        if alike is None or not folders:
            return self.by_stem.get(stem, ())
        common = {each: _alike_at_the_end(each, folders) for each in alike}
        best = [each for each, count in common.items() if count == max(common.values())]
        return alike[best[0]] if len(best) == 1 else ()

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
            boxes = [box for box in boxes_of_objects(ET.fromstring(xml)) if box is not None]
        except (ET.ParseError, ValueError, OverflowError) as error:
            reason = f"no annotation with four edges a box and a size in pixels: {error}"
            self.skipped.append(SkippedFile("boxes", name, reason))
            return
        if not all(isfinite(edge) for box in boxes for edge in box[:4]):
            self.skipped.append(SkippedFile("boxes", name, "a box with an edge that is no number"))
            return
        self._keep(PurePosixPath(name), tuple(boxes))

    def _keep(self, name: PurePosixPath, boxes: tuple[Box, ...]) -> None:
        stem, folders = name.stem, tuple(map(sys.intern, name.parent.parts))
        if stem in self.by_stem:
            self.alike.setdefault(stem, {self._folders[stem]: self.by_stem[stem]})[folders] = boxes
        self.by_stem[stem], self._folders[stem] = boxes, folders


def _alike_at_the_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many of the last names are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def boxes_of_objects(annotation: ET.Element) -> list[Box | None]:
    """The box of each object, in order, None where it has none; those of an object's parts (VOC's heads and
    hands) are not read.

    A size of 0, as some annotations have it, is none. ValueError, OverflowError where a number is none.
    """
    height, width = (int(float(annotation.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    boxes: list[Box | None] = []
    for found in annotation.iter("object"):
        if (box := found.find("bndbox")) is None:
            boxes.append(None)
            continue
        xmin, ymin, xmax, ymax = (float(box.findtext(edge, "")) for edge in EDGES)
        label = (found.findtext("name") or "").strip()
        boxes.append(Box(xmin, ymin, xmax, ymax, label, height, width))
    return boxes
