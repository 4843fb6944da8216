"""A description of a packed data set in Croissant 1.1 (MLCommons), for catalogues and other loaders.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
"""

import json
from typing import Any

from pipelines.packing.plan import stem_of
from pipelines.shards.manifest import Manifest
from pipelines.sources.licences import licence_of

CROISSANT = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
ARROW = "application/vnd.apache.arrow.file"

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

FIELDS = (
    ("key", "sc:Text", "Name of the image in its source."),
    ("image", "sc:ImageObject", "The encoded file."),
    ("label", "sc:Integer", "Index into the classes."),
    ("height", "sc:Integer", "Of the image, in pixels."),
    ("width", "sc:Integer", "Of the image, in pixels."),
)

SEVERAL_FIELDS = (
    ("labels", "sc:Integer", "Indices into the classes: those of the image."),
    (
        "difficult",
        "sc:Integer",
        "Indices into the classes: those that count neither for nor against the image.",
    ),
)
"""Lists, where an image may be of several classes."""

BOX_FIELDS = (
    ("xmin", "sc:Float", "Left edge, in pixels of the image that it was noted for."),
    ("ymin", "sc:Float", "Upper edge."),
    ("xmax", "sc:Float", "Right edge."),
    ("ymax", "sc:Float", "Lower edge."),
    ("label", "sc:Text", "Identifier of the object's class; empty for the image's own."),
    ("height", "sc:Integer", "Of the image that it was noted for, in pixels; 0 for that of the image itself."),
    ("width", "sc:Integer", "Likewise."),
)
"""Of each of an image's boxes."""


def croissant(manifest: Manifest) -> str:
    """JSON-LD that describes shards, columns and classes; every file with its digest."""
    terms = licence_of(manifest.source)
    counts = ", ".join(f"{split.images:,} in {name}" for name, split in manifest.splits.items())
    description: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": manifest.source,
        "description": f"{manifest.source} in Arrow shards: {len(manifest.classes)} classes, {counts}.",
        "version": manifest.format,
        **({"license": terms[1]} if terms else {}),
        "distribution": _distribution(manifest),
        "recordSet": [_classes(manifest), *(_images(manifest, name) for name in manifest.splits)],
    }
    return json.dumps(description, indent=1, ensure_ascii=False) + "\n"


def _distribution(manifest: Manifest) -> list[dict[str, Any]]:
    files = [
        {
            "@type": "cr:FileObject",
            "@id": shard.file,
            "name": shard.file,
            "contentUrl": shard.file,
            "contentSize": f"{shard.bytes} B",
            "encodingFormat": ARROW,
            "sha256": shard.sha256,
        }
        for split in manifest.splits.values()
        for shard in split.shards
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"{name}-shards",
            "name": f"{name}-shards",
            "containedIn": [{"@id": shard.file} for shard in split.shards],
            "encodingFormat": ARROW,
            "includes": f"{stem_of(name)}-*.arrow",
        }
        for name, split in manifest.splits.items()
    ]
    return [*files, *sets]


def _classes(manifest: Manifest) -> dict[str, Any]:
    pairs = zip(manifest.classes, manifest.class_names, strict=True)
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/label"},
        "field": [
            {"@type": "cr:Field", "@id": f"classes/{field}", "name": field, "dataType": kind}
            for field, kind in (("label", "sc:Integer"), ("class", "sc:Text"), ("name", "sc:Text"))
        ],
        "data": [
            {"classes/label": i, "classes/class": identifier, "classes/name": name}
            for i, (identifier, name) in enumerate(pairs)
        ],
    }


def _images(manifest: Manifest, split: str) -> dict[str, Any]:
    lists = SEVERAL_FIELDS if manifest.several_labels else ()
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "key": {"@id": f"{split}/key"},
        "field": [
            *(_field(split, *field) for field in FIELDS),
            *({**_field(split, *field), "isArray": True} for field in lists),
            _boxes(split),
        ],
    }


def _field(split: str, name: str, kind: str, text: str) -> dict[str, Any]:
    of_classes = name in ("label", *(field[0] for field in SEVERAL_FIELDS))
    return {
        "@type": "cr:Field",
        "@id": f"{split}/{name}",
        "name": name,
        "description": text,
        "dataType": kind,
        "source": {"fileSet": {"@id": f"{split}-shards"}, "extract": {"column": name}},
        **({"references": {"field": {"@id": "classes/label"}}} if of_classes else {}),
    }


def _boxes(split: str) -> dict[str, Any]:
    parts = []
    for name, kind, text in BOX_FIELDS:
        part = _field(split, "boxes", kind, text) | {"@id": f"{split}/boxes/{name}", "name": name}
        part["source"]["transform"] = {"jsonPath": name}
        parts.append(part)
    return {
        "@type": "cr:Field",
        "@id": f"{split}/boxes",
        "name": "boxes",
        "description": "Bounding boxes of the image, as they were noted.",
        "isArray": True,
        "subField": parts,
    }
