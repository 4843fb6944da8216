"""Posteriors of a data set, saved so that nets can be fused without being run again.

An Arrow IPC file of {key, label, posterior: K × float32}, one row an image in the order of the split. What they
are of stands in the schema's metadata, with a digest of the rows.

Shapes: N images, K classes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.storage.folder import Folder
from vgg.testing.provenance import Member, Provenance

FORMAT = 1


@dataclass(frozen=True)
class Posteriors:
    """Shares of belief in each class."""

    about: Provenance
    keys: tuple[str, ...]
    labels_N: np.ndarray
    """int32."""
    posteriors_NK: np.ndarray
    """float32; a row adds up to 1."""

    @property
    def digest(self) -> str:
        """SHA-256 over whose they are, keys, labels and posteriors."""
        digest = hashlib.sha256(json.dumps([asdict(self.about), self.keys], sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.labels_N, "<i4").tobytes())
        digest.update(np.ascontiguousarray(self.posteriors_NK, "<f4").tobytes())
        return digest.hexdigest()


def write(folder: Folder, name: str, posteriors: Posteriors) -> str:
    """Save under this name, at once; the digest of all of it."""
    images, classes = posteriors.posteriors_NK.shape
    digest = posteriors.digest
    about = {"format": FORMAT, "sha256": digest, **asdict(posteriors.about)}
    values = pa.array(np.ascontiguousarray(posteriors.posteriors_NK, np.float32).reshape(-1))
    table = pa.table(
        {
            "key": pa.array(posteriors.keys, pa.string()),
            "label": pa.array(posteriors.labels_N, pa.int32()),
            "posterior": pa.FixedSizeListArray.from_arrays(values, classes),
        }
    ).replace_schema_metadata({"vgg.posteriors": json.dumps(about)})
    assert table.num_rows == images
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    folder.write(name, sink.getvalue().to_pybytes())
    return digest


def read(folder: Folder, name: str) -> Posteriors:
    """Read and verify. ValueError naming the file where it is missing, damaged or none of ours."""
    where = f"{folder.uri}/{name}"
    try:
        table = pa.ipc.open_file(pa.BufferReader(folder.read(name))).read_all()
        table.validate(full=True)  # Arrow trusts offsets otherwise, and reads beyond the file
        about = json.loads((table.schema.metadata or {})[b"vgg.posteriors"])
        found = about.pop("format")
        if found != FORMAT:
            raise ValueError(f"{where} has format {found}, this version reads {FORMAT}: evaluate again")
        posteriors, sha256 = _from_table(table, about), about["sha256"]
    except FileNotFoundError as error:
        raise ValueError(f"no file {where}: python -m vgg.evaluate leaves posteriors") from error
    except (OSError, pa.ArrowException, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} holds no posteriors, or is damaged ({error!r}): evaluate again") from error
    if posteriors.digest != sha256:
        raise ValueError(f"{where} is damaged: its SHA-256 is not the one it was written with; evaluate again")
    return posteriors


def mean(all_of_them: Sequence[Posteriors]) -> Posteriors:
    """The mean, each with the same weight (paper, section 4.4), summed in float64.

    ValueError, with the reason, where they are not of the same images and classes.
    """
    first = all_of_them[0]
    for other in all_of_them[1:]:
        if reason := _misfit(first, other):
            raise ValueError(f"posteriors of {_named(first)} and {_named(other)} cannot be fused: {reason}")
    total_NK = np.zeros(first.posteriors_NK.shape, np.float64)
    weights: dict[Member, float] = {}
    for each in all_of_them:
        total_NK += each.posteriors_NK
        for member, weight in each.about.members:
            weights[member] = weights.get(member, 0.0) + weight / len(all_of_them)
    posteriors_NK = (total_NK / len(all_of_them)).astype(np.float32)
    return replace(
        first, about=replace(first.about, members=tuple(weights.items())), posteriors_NK=posteriors_NK
    )


def _misfit(one: Posteriors, other: Posteriors) -> str | None:
    a, b = one.about, other.about
    if a.data != b.data:
        return f"they are of different data sets ({a.source} {a.data[:12]}, {b.source} {b.data[:12]})"
    if a.split != b.split:
        return f"they are of different splits ({a.split}, {b.split})"
    if a.classes != b.classes:
        if sorted(a.classes) == sorted(b.classes):
            return "their classes are in different orders"
        return f"they have different classes ({len(a.classes)}, {len(b.classes)})"
    if one.keys != other.keys or not np.array_equal(one.labels_N, other.labels_N):
        return "they are of different images"
    return None


def _named(posteriors: Posteriors) -> str:
    members = [f"{m.net} {m.protocol} {m.scale}" for m, _ in posteriors.about.members]
    return members[0] if len(members) == 1 else f"[{', '.join(members)}]"


def _from_table(table: pa.Table, about: dict[str, Any]) -> Posteriors:
    column = table.column("posterior").combine_chunks()
    values = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return Posteriors(
        Provenance(
            about["data"],
            about["source"],
            about["split"],
            tuple(about["classes"]),
            tuple(about["class_names"]),
            tuple((Member(**member), weight) for member, weight in about["members"]),
        ),
        tuple(table.column("key").to_pylist()),
        table.column("label").to_numpy().astype(np.int32),
        values.flatten().to_numpy().reshape(table.num_rows, -1),
    )
