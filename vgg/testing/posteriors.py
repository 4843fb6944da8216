"""Class probabilities of a data set, saved so that nets can be fused without scoring the images again.

An Arrow IPC file of {key, label, posterior: K × float32}, one row per image in the order of the split. The
schema's metadata holds the provenance and a digest of everything.

Shapes: N images, K classes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from cli.errors import Failure, UserError
from pipelines.storage.folder import Folder
from vgg.testing.identity import identity
from vgg.testing.probabilities import why_not_labelled
from vgg.testing.provenance import EnsembleMember, Provenance

FORMAT = 1


@dataclass(frozen=True)
class Posteriors:
    """Class probabilities (soft-max outputs, or means of them) of images, with their labels."""

    provenance: Provenance
    keys: tuple[str, ...]
    """The images' keys in the data set."""
    labels_N: np.ndarray
    """int32."""
    posteriors_NK: np.ndarray
    """float32; each row adds up to 1."""

    @property
    def digest(self) -> str:
        """SHA-256 over provenance, keys, labels and probabilities."""
        digest = hashlib.sha256(json.dumps([self.provenance.to_json(), self.keys], sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.labels_N, "<i4").tobytes())
        digest.update(np.ascontiguousarray(self.posteriors_NK, "<f4").tobytes())
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """What these are a result of; see `vgg.testing.identity`."""
        return identity(self.provenance, len(self.keys))

    @property
    def fault(self) -> str | None:
        """Why these are no class probabilities of labelled images; None if they are."""
        classes = len(self.provenance.classes)
        return why_not_labelled(self.posteriors_NK, self.labels_N, self.keys, classes)


def require_sound(posteriors: Posteriors) -> None:
    """Failure, naming nets and image, unless these are class probabilities of labelled images."""
    if fault := posteriors.fault:
        raise Failure(f"nothing is written or tracked of {describe(posteriors)}: {fault}")


def write(folder: Folder, name: str, posteriors: Posteriors) -> str:
    """Save under this name, atomically; returns the digest. Failure if they are no class probabilities."""
    require_sound(posteriors)
    images, classes = posteriors.posteriors_NK.shape
    digest = posteriors.digest
    metadata = {"format": FORMAT, "sha256": digest, **posteriors.provenance.to_json()}
    values = pa.array(np.ascontiguousarray(posteriors.posteriors_NK, np.float32).reshape(-1))
    table = pa.table(
        {
            "key": pa.array(posteriors.keys, pa.string()),
            "label": pa.array(posteriors.labels_N, pa.int32()),
            "posterior": pa.FixedSizeListArray.from_arrays(values, classes),
        }
    ).replace_schema_metadata({"vgg.posteriors": json.dumps(metadata)})
    assert table.num_rows == images
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    folder.write(name, sink.getvalue().to_pybytes())
    return digest


def read(folder: Folder, name: str) -> Posteriors:
    """Read and verify a file. UserError naming it if it is missing, damaged or of another kind."""
    file = f"{folder.uri}/{name}"
    try:
        table = pa.ipc.open_file(pa.BufferReader(folder.read(name))).read_all()
        table.validate(full=True)  # Arrow trusts offsets otherwise, and reads beyond the file
        metadata = json.loads((table.schema.metadata or {})[b"vgg.posteriors"])
        file_format = metadata.pop("format")
        posteriors = _from_table(table, metadata) if file_format == FORMAT else None
    except FileNotFoundError as error:
        raise UserError(f"no file {file}: python -m vgg.evaluate leaves posteriors") from error
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} holds no posteriors, or is damaged ({error!r}): evaluate again") from error
    if posteriors is None:
        raise UserError(f"{file} has format {file_format}, this version reads {FORMAT}: evaluate again")
    if posteriors.digest != metadata.get("sha256"):
        raise UserError(f"{file} is damaged: its SHA-256 is not the one it was written with; evaluate again")
    if fault := posteriors.fault:
        raise UserError(f"{file} cannot be used: {fault}; evaluate again")
    return posteriors


def mean(posteriors: Sequence[Posteriors]) -> Posteriors:
    """The unweighted mean (paper, section 4.4), summed in float64.

    UserError, with the reason, if they differ in data set, images or classes.
    """
    first, count = posteriors[0], len(posteriors)
    for other in posteriors[1:]:
        if reason := _mismatch(first, other):
            raise UserError(f"posteriors of {describe(first)} and {describe(other)} cannot be fused: {reason}")
    total_NK = np.zeros(first.posteriors_NK.shape, np.float64)
    weights: dict[EnsembleMember, float] = {}
    for term in posteriors:
        total_NK += term.posteriors_NK
        for member, weight in term.provenance.members:
            weights[member] = weights.get(member, 0.0) + weight / count
    return replace(
        first,
        provenance=replace(first.provenance, members=tuple(weights.items())),
        posteriors_NK=(total_NK / count).astype(np.float32),
    )


def _mismatch(one: Posteriors, other: Posteriors) -> str | None:
    """Why two cannot be averaged; None if they can."""
    a, b = one.provenance, other.provenance
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


def describe(posteriors: Posteriors) -> str:
    """Net, protocol and scale of each member."""
    members = [f"{m.net} {m.protocol} {m.scale}" for m, _ in posteriors.provenance.members]
    return members[0] if len(members) == 1 else f"[{', '.join(members)}]"


def _from_table(table: pa.Table, metadata: dict[str, Any]) -> Posteriors:
    column = table.column("posterior").combine_chunks()
    values = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return Posteriors(
        Provenance.from_json(metadata),
        tuple(table.column("key").to_pylist()),
        table.column("label").to_numpy().astype(np.int32),
        values.flatten().to_numpy().reshape(table.num_rows, -1),
    )
