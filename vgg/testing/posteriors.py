"""Class probabilities of a data set, saved so that nets can be fused without scoring the images again.

An Arrow IPC file of {key, label, posterior: K × float32}, one row per image in the order of the split, in
record batches of `BLOCK_ROWS`. The schema's metadata holds the provenance and a digest of everything. No more
rows than that of a file or of a mean are in memory at a time.

Shapes: N images, B images of a block, K classes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from cli.errors import Failure, UserError
from pipelines.storage.folder import Folder
from vgg.metrics.rows import Rows, blocks_of
from vgg.testing.identity import identity
from vgg.testing.posterior_rows import PosteriorFile
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
    posteriors_NK: np.ndarray | Rows
    """float32; each row adds up to 1."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over provenance, keys, labels and probabilities."""
        digest = hashlib.sha256(json.dumps([self.provenance.to_json(), self.keys], sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.labels_N, "<i4").tobytes())
        for rows in blocks_of(self.posteriors_NK.shape[0]):
            digest.update(np.ascontiguousarray(self.posteriors_NK[rows], "<f4").tobytes())
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """What these are a result of; see `vgg.testing.identity`."""
        return identity(self.provenance, len(self.keys))

    @cached_property
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
    digest = posteriors.digest
    metadata = {"format": FORMAT, "sha256": digest, **posteriors.provenance.to_json()}
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("label", pa.int32()),
            ("posterior", pa.list_(pa.float32(), posteriors.posteriors_NK.shape[1])),
        ],
        {"vgg.posteriors": json.dumps(metadata)},
    )
    with folder.writing(name) as file, pa.ipc.new_file(file, schema) as writer:
        for rows in blocks_of(len(posteriors.keys)):
            writer.write_batch(_record_batch(posteriors, rows, schema))
    return digest


def read(folder: Folder, name: str) -> Posteriors:
    """Read and verify a file into memory. UserError naming it if it is missing, damaged or of another kind."""
    opened = open_file(folder, name)
    return replace(opened, posteriors_NK=np.asarray(opened.posteriors_NK))


def open_file(folder: Folder, name: str) -> Posteriors:
    """Verify a file, whose rows are read when they are asked for. Raises as `read`."""
    file = f"{folder.uri}/{name}"
    try:
        rows = PosteriorFile(folder, name)
    except FileNotFoundError as error:
        raise UserError(f"no file {file}: python -m vgg.evaluate leaves posteriors") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    try:
        metadata = json.loads(rows.metadata[b"vgg.posteriors"])
        file_format = metadata.pop("format")
        provenance = Provenance.from_json(metadata) if file_format == FORMAT else None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{file} holds no posteriors, or is damaged ({error!r}): evaluate again") from error
    if provenance is None:
        raise UserError(f"{file} has format {file_format}, this version reads {FORMAT}: evaluate again")
    posteriors = Posteriors(provenance, *rows.keys_and_labels(), rows)
    if posteriors.digest != metadata.get("sha256"):
        raise UserError(f"{file} is damaged: its SHA-256 is not the one it was written with; evaluate again")
    if fault := posteriors.fault:
        raise UserError(f"{file} cannot be used: {fault}; evaluate again")
    return posteriors


class MeanRows(Rows):
    """The unweighted mean of several, summed in float64."""

    def __init__(self, terms: Sequence[np.ndarray | Rows]) -> None:
        super().__init__(*terms[0].shape)
        self._terms = terms

    def __getitem__(self, rows: slice) -> np.ndarray:
        total_BK = np.zeros((rows.stop - rows.start, self.shape[1]), np.float64)
        for term in self._terms:
            total_BK += term[rows]
        return (total_BK / len(self._terms)).astype(np.float32)


def mean(posteriors: Sequence[Posteriors]) -> Posteriors:
    """The unweighted mean (paper, section 4.4), the same in whatever order they are given.

    UserError, with the reason, if they differ in data set, images or classes.
    """
    first, count = posteriors[0], len(posteriors)
    for other in posteriors[1:]:
        if reason := _mismatch(first, other):
            raise UserError(f"posteriors of {describe(first)} and {describe(other)} cannot be fused: {reason}")
    terms = sorted(posteriors, key=lambda term: (_order(term), term.digest)) if count > 1 else posteriors
    weights: dict[EnsembleMember, float] = {}
    for term in terms:
        for member, weight in term.provenance.members:
            weights[member] = weights.get(member, 0.0) + weight / count
    return replace(
        first,
        provenance=replace(first.provenance, members=tuple(weights.items())),
        posteriors_NK=MeanRows([term.posteriors_NK for term in terms]),
    )


def describe(posteriors: Posteriors) -> str:
    """Net, protocol and scale of each member."""
    members = [f"{m.net} {m.protocol} {m.scale}" for m, _ in posteriors.provenance.members]
    return members[0] if len(members) == 1 else f"[{', '.join(members)}]"


def _order(posteriors: Posteriors) -> list[tuple[str, str, str, int]]:
    """By which terms of a mean are sorted."""
    return [(m.net, m.weights_sha256, m.protocol, m.scale) for m, _ in posteriors.provenance.members]


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


def _record_batch(posteriors: Posteriors, rows: slice, schema: pa.Schema) -> pa.RecordBatch:
    posteriors_BK = np.ascontiguousarray(posteriors.posteriors_NK[rows], np.float32)
    values = pa.FixedSizeListArray.from_arrays(pa.array(posteriors_BK.reshape(-1)), posteriors_BK.shape[1])
    keys, labels = posteriors.keys[rows], np.asarray(posteriors.labels_N[rows], np.int32)
    return pa.record_batch([pa.array(keys, pa.string()), pa.array(labels), values], schema=schema)
