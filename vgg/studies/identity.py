"""The identity of a step: what its result is a result of. Equal identities are one step repeated.

It holds the code's version beside recipe, data and starting weights, or protocols and weights, or members.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vgg.studies.graph import Evaluation
from vgg.training.plan import TrainingPlan

ROOT = Path(__file__).parents[2]

DECIDING = (
    *("cluster", "pipelines", "vgg/boxes", "vgg/metrics", "vgg/net", "vgg/recipes", "vgg/testing"),
    *("vgg/training", "vgg/weights"),
)
"""Packages that decide results. What prints, tracks or draws them does not."""

CODE = "code"

NAME_DIGITS = 12

Identity = Mapping[str, Any]


@cache
def code_version() -> str:
    """SHA-256 over every Python file of the packages that decide results, committed or not."""
    digest = hashlib.sha256()
    for package in DECIDING:
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{file.relative_to(ROOT)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def training_identity(plan: TrainingPlan, code: str) -> Identity:
    """Every setting, the seed, the data's digest, the digest of the starting weights."""
    return {"recipe": plan.recipe_name, **plan.identity, "steps": plan.total_steps, CODE: code}


def evaluation_identity(
    step: Evaluation, weights_sha256: str, data: str, precision: str, code: str
) -> Identity:
    """Protocols, scales, weights, data and precision; `data`: digest of the data set."""
    asked = {"protocols": list(step.protocols), "scales": list(step.scales), "precision": precision}
    return {**asked, "weights": weights_sha256, "data": data, CODE: code}


def fusion_identity(members: Sequence[str], code: str) -> Identity:
    """`members`: digests of the class probabilities, in whatever order."""
    return {"members": sorted(members), CODE: code}


def digest_of(identity: Identity) -> str:
    """SHA-256, as it stands in the name of a step's folder."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def but_for_code(identity: Identity) -> dict[str, Any]:
    """What two identities are compared by where results of other versions of the code count."""
    return {key: value for key, value in identity.items() if key != CODE}
