"""The result of an evaluation or an ensemble: the content of `result.json`, and its summary in a line."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.storage.folder import Folder
from vgg.metrics.accuracy import Accuracy
from vgg.metrics.top5 import has_top5
from vgg.testing.provenance import EnsembleMember, Provenance

Kind = Literal["eval", "ensemble"]


@dataclass(frozen=True)
class EvaluationResult:
    """A result.json, and the folder that it lies in."""

    folder: Folder
    result: dict[str, Any]
    remark: str | None = None
    """What a reader of the errors should know."""

    @property
    def summary(self) -> str:
        """Net, protocol, scales and errors in a line, and the remark in another."""
        result = self.result
        low, high = result["top1_interval"]
        scales, split = ", ".join(map(str, result["scales"])), result["data"]["split"]
        of_split = "" if split == "val" else f", split {split}"
        with_top5 = has_top5(len(result["class_accuracy"]))
        top5 = f" top-5 {result['top5_error']:.2f} %," if with_top5 else ""
        return (
            f"{result['net']}, {result['protocol']}, Q = {scales}{of_split}: "
            f"top-1 error {result['top1_error']:.2f} % "
            f"({low:.2f} to {high:.2f}),{top5} loss {result['loss']:.3f}, "
            f"{result['images']:,} images" + (f"\n  ({self.remark})" if self.remark else "")
        )


def picture_title(result: Mapping[str, Any]) -> str:
    """Net and data in a line, protocol, scales and error in another; of several nets their configurations."""
    scales, (low, high), data = ", ".join(map(str, result["scales"])), result["top1_interval"], result["data"]
    several = len({member["weights_sha256"] for member in result["members"]}) > 1
    split = "" if data["split"] == "val" else f", split {data['split']}"
    return (
        f"{result['configuration'] if several else result['net']} on {data['source']}{split}\n"
        f"{result['protocol']}, Q = {scales}: top-1 error {result['top1_error']:.1f} % "
        f"({low:.1f} to {high:.1f}) of {result['images']:,} images"
    )


def result_json(kind: Kind, provenance: Provenance, accuracy: Accuracy, sha256: str) -> dict[str, Any]:
    """The content of result.json, but for `tracked_at`; `sha256`: digest of the posteriors."""
    return {
        "format": 1,
        "kind": kind,
        "net": " + ".join(provenance.nets),
        **_summary_of([member for member, _ in provenance.members]),
        "members": [{**member.__dict__, "weight": weight} for member, weight in provenance.members],
        "data": {"digest": provenance.data, "source": provenance.source, "split": provenance.split},
        **accuracy.to_json(),
        "posteriors_sha256": sha256,
    }


def _summary_of(members: Sequence[EnsembleMember]) -> dict[str, Any]:
    """Recipe, configuration, protocol and scales of all members together, as one searches for them."""
    protocols = {member.protocol for member in members}
    return {
        "recipe": " + ".join(sorted({member.recipe for member in members})),
        "configuration": " + ".join(_configurations(members)),
        "protocol": "both" if protocols == {"dense", "multi-crop"} else " + ".join(sorted(protocols)),
        "scales": sorted({member.scale for member in members}),
    }


def _configurations(members: Sequence[EnsembleMember]) -> list[str]:
    """The configuration of each net, with the number of nets if several share it."""
    of_net = {member.weights_sha256: member.configuration for member in members}
    return [
        name if count == 1 else f"{count} × {name}" for name, count in sorted(Counter(of_net.values()).items())
    ]
