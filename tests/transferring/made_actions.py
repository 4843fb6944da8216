"""PASCAL VOC's actions as distributed, made small in the very layout."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

ACTIONS = ("jumping", "reading", "running")
"""The n-th brightens its person's box in the n-th channel."""
COUNTS = {"train": 24, "val": 16, "test": 16}
HEIGHT, WIDTH = 56, 80


@dataclass(frozen=True)
class MadePerson:
    """A person of an image."""

    number: int
    """Of its object in the annotation, from 1."""
    box: tuple[int, int, int, int]
    """xmin, ymin, xmax, ymax."""
    marks: dict[str, int]
    """Of each action whose list has the person."""


def make_actions(folder):
    """VOCdevkit/VOC2012; its folder, and of each image its persons.

    Every third image begins with a dog, every other has two persons. The list of the first action leaves out
    those of each split's first four images.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    for sub in ("JPEGImages", "Annotations", "ImageSets/Action", "ImageSets/Main"):
        (root / sub).mkdir(parents=True)
    persons: dict[str, list[MadePerson]] = {}
    for split, count in COUNTS.items():
        names = [f"2011_{split}{i:03d}" for i in range(count)]
        for i, name in enumerate(names):
            persons[name] = _make_image(root, name, i, np.random.default_rng([len(split), split == "val", i]))
        lists = root / "ImageSets" / "Action"
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for action in ACTIONS:
            (lists / f"{action}_{split}.txt").write_text(
                "".join(
                    f"{name} {person.number} {person.marks[action]:2d}\n"
                    for name in names
                    for person in persons[name]
                    if action in person.marks
                )
            )
    return root, persons


def _make_image(root, name, i, rng):
    pixels = rng.integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
    edges = "<xmax>9</xmax><xmin>1</xmin><ymax>9</ymax><ymin>2</ymin>"
    dog = f"<object><name>dog</name><bndbox>{edges}</bndbox></object>"
    objects, found = [dog] if i % 3 == 0 else [], []
    for place in range(1 + i % 2):
        x0, y0 = 40 * place + int(rng.integers(0, 10)), int(rng.integers(0, 16))
        x1, y1 = x0 + int(rng.integers(18, 28)), y0 + int(rng.integers(24, 40))
        marks = {action: int(rng.choice([1, 0, -1], p=[0.4, 0.1, 0.5])) for action in ACTIONS}
        for k, action in enumerate(ACTIONS):
            pixels[y0:y1, x0:x1, k] += 150 * (marks[action] == 1)
        actions = "".join(f"<{action}>{int(mark == 1)}</{action}>" for action, mark in marks.items())
        actions += f"<other>{int(1 not in marks.values())}</other>"
        if i < 4:
            del marks[ACTIONS[0]]
        objects.append(
            f"<object><name>person</name><actions>{actions}</actions><bndbox><xmax>{x1}</xmax><xmin>{x0}</xmin>"
            f"<ymax>{y1}</ymax><ymin>{y0}</ymin></bndbox><difficult>0</difficult><pose>Unspecified</pose>"
            f"<point><x>{(x0 + x1) // 2}</x><y>{(y0 + y1) // 2}</y></point></object>"
        )
        found.append(MadePerson(len(objects), (x0, y0, x1, y1), marks))
    size = f"<size><depth>3</depth><height>{HEIGHT}</height><width>{WIDTH}</width></size>"
    head = f"<filename>{name}.jpg</filename><folder>VOC2012</folder>"
    (root / "Annotations" / f"{name}.xml").write_text(
        f"<annotation>{head}{''.join(objects)}<segmented>0</segmented>{size}</annotation>"
    )
    Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    return found
