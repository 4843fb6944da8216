"""The model card: what a net is, of what, how well it does by which protocol, and how to use the files."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from cli.errors import UserError
from pipelines.sources.licences import licence_of
from pipelines.storage.folder import Folder
from vgg.metrics.top5 import has_top5
from vgg.net.architecture import forward_flops, parameter_count
from vgg.weights.trained_net import TrainedNet


def protocol_rows(net: TrainedNet, folders: Sequence[Folder]) -> list[dict[str, str]]:
    """Every test of this net alone below the folders, a row each, the best protocol last.

    Tests of other weights are passed over, and of a test that is there twice the first is taken.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        try:
            for result in _results(folder):
                if {member["weights_sha256"] for member in result["members"]} == {net.weights_sha256}:
                    found.setdefault(result["posteriors_sha256"], {**result, "row": _row(result)})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"below {folder.described} a result.json of an evaluation is damaged ({error!r}): evaluate "
                "again"
            ) from error
    rows = sorted(found.values(), key=lambda r: (r["data"]["source"], r["data"]["split"], -r["top1_error"]))
    return [result["row"] for result in rows]


def model_card(net: TrainedNet, **more: Any) -> str:
    """README.md of an exported net; `more`: what the template shows besides."""
    environment = Environment(loader=PackageLoader("vgg.exporting"), trim_blocks=True, lstrip_blocks=True)
    architecture, metadata = net.architecture, net.metadata or {}
    source = metadata.get("data_name", "unknown data")
    licence, _ = licence_of(source) or ("unknown", "")
    return environment.get_template("card.md.jinja").render(
        net=net,
        architecture=architecture,
        with_top5=has_top5(architecture.classes),
        parameters=f"{parameter_count(architecture):,}",
        flop=f"{forward_flops(architecture):.2e}",
        source=source,
        licence=licence,
        lineage=metadata.get("lineage", []),
        **more,
    )


def _row(result: dict[str, Any]) -> dict[str, str]:
    share = result.get("majority_share")  # an earlier version's result has none

    def with_interval(key: str) -> str:
        low, high = result[f"{key}_interval"]
        return f"{result[f'{key}_error']:.2f} ({low:.2f} to {high:.2f})"

    return {
        "data": f"{result['data']['source']}, {result['data']['split']}",
        "protocol": result["protocol"],
        "scales": ", ".join(map(str, result["scales"])),
        "precision": ", ".join(sorted({member["precision"] for member in result["members"]})),
        "images": f"{result['images']:,}",
        "largest": "" if share is None else f"{100 * share:.1f}",
        "top1": with_interval("top1"),
        "top5": with_interval("top5"),
    }


def _results(folder: Folder, depth: int = 4) -> list[dict[str, Any]]:
    """The result.json files of evaluations below a folder."""
    found = []
    if folder.exists("result.json"):
        try:
            result = folder.read_json("result.json")
        except UserError:
            return []
        if isinstance(result, dict) and result.get("kind") == "eval":
            found.append(result)
    if depth:
        for name in folder.names():
            holds_none = name in ("checkpoints", "parts", "logs", "data") or name.startswith("spool-")
            if not holds_none and "." not in name[-6:]:
                found += _results(folder.child(name), depth - 1)
    return found
