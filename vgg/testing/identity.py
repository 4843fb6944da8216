"""The identity of a test: what it is a result of, whatever it found.

Two tests with equal identities are one test repeated; tests that differ in it never replace each other.
"""

import hashlib
import json
from dataclasses import replace
from typing import Any

from vgg.testing.protocols import Evaluation
from vgg.testing.provenance import EnsembleMember, Provenance

NAME_DIGITS = 8


def identity(provenance: Provenance, images: int) -> str:
    """SHA-256 over data, split, number of images, and each member's weights, recipe, data and nets that it was
    trained from, protocol, scale, grid, averaging, precision and share in the mean.
    """
    members = sorted(
        [*_scored(m), round(weight, 9), m.recipe, m.trained_on, m.started_from]
        for m, weight in provenance.members
    )
    return _sha256([provenance.data, provenance.split, images, members])


def scores_identity(provenance: Provenance) -> str:
    """SHA-256 over what decides the numbers: the same for a net whose recipe or lineage is told otherwise."""
    members = sorted([*_scored(m), round(weight, 9)] for m, weight in provenance.members)
    return _sha256([provenance.data, provenance.split, 0, members])


def evaluation_name(evaluation: Evaluation, provenance: Provenance) -> str:
    """Name of an evaluation's folder: protocol and scales, then whatever is not usual.

    Usual are the split val, the data set that the net was trained on, a grid of five, class scores averaged,
    and fp32.
    """
    parts = {part for member, _ in provenance.members for part in member.suffix.split("-")[1:]}
    return "-".join([f"{evaluation.name}{_of_data(provenance)}", *sorted(parts, reverse=True)])


def pass_name(provenance: Provenance) -> str:
    """Name of the folder of a pass's blocks, of whatever precision; every identity has another."""
    ((member, _),) = provenance.members
    fields = replace(member, precision="fp32")
    digest = scores_identity(replace(provenance, members=((fields, 1.0),)))
    return f"{member.protocol}-{member.scale}{_of_data(provenance)}{fields.suffix}-{digest[:NAME_DIGITS]}"


def _scored(member: EnsembleMember) -> list[Any]:
    return [
        member.weights_sha256,
        member.protocol,
        member.scale,
        member.grid,
        member.average,
        member.precision,
    ]


def _of_data(provenance: Provenance) -> str:
    trained_on = {member.trained_on for member, _ in provenance.members}
    split = "" if provenance.split == "val" else f"-{provenance.split}"
    return split if trained_on == {provenance.data} else f"{split}-data-{provenance.data[:NAME_DIGITS]}"


def _sha256(fields: object) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
