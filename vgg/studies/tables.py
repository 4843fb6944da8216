"""The rows of a study's tables, as texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.shards.manifest import Manifest
from pipelines.storage.folder import Folder
from vgg.metrics.interval import learnt_nothing, wilson_interval
from vgg.metrics.top5 import has_top5
from vgg.net.architecture import Architecture, forward_flops, layers, parameter_count
from vgg.net.receptive import last_receptive_field, receptive_field, stack_weights
from vgg.reporting.comparison import ComparisonRow, ComparisonTable
from vgg.reporting.facts import Facts
from vgg.reporting.paper_conditions import row_key, tiny_imagenet_errors
from vgg.reporting.paper_results import TABLES
from vgg.reporting.result_folder import POSTERIORS
from vgg.studies.cost import duration
from vgg.studies.graph import Node, Training
from vgg.studies.record import StepResult
from vgg.studies.results import ComparedPair, TestedRow, spread_text
from vgg.testing import posteriors


def training_rows(
    nodes: Sequence[Node], results: Mapping[str, StepResult], manifest: Manifest
) -> list[dict[str, str]]:
    """A row for each training: its net, and accuracy and loss in training and validation over its seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    steps: dict[str, Training] = {}
    for node in nodes:
        if isinstance(node.step, Training) and node.name in results:
            steps[node.step.name] = node.step
            found.setdefault(node.step.name, []).append(
                Folder(results[node.name].folder).read_json("result.json")
            )
    rows = []
    for name, seeds in found.items():
        recipe = steps[name].recipe
        best = [result["best"] for result in seeds]
        train_top1 = [100 * b["train_top1"] for b in best if b.get("train_top1") is not None]
        crop = recipe.input
        rows.append(
            {
                "name": name,
                "configuration": recipe.model.configuration,
                "scale": f"{crop.min_scale}"
                if crop.min_scale == crop.max_scale
                else f"{crop.min_scale}-{crop.max_scale}",
                "start": steps[name].start_from or recipe.model.initialisation,
                "parameters": f"{parameter_count(recipe.architecture(len(manifest.classes))):,}",
                "steps": ", ".join(sorted({f"{result['steps']:,}" for result in seeds})),
                "train_top1": spread_text(train_top1) if train_top1 else "–",
                "train_loss": spread_text([_last_losses(result) for result in seeds]),
                "top1": spread_text([100 * b["top1"] for b in best]),
                "loss": spread_text([b["loss"] for b in best]),
                "note": _learnt_nothing([r["seed"] for r in seeds if _no_better(r["best"])]),
            }
        )
    return rows


def _last_losses(result: Mapping[str, Any]) -> float:
    """Mean training loss of the last twentieth of the updates, in nats."""
    losses = [loss for loss in result["losses"] if loss is not None]  # those left out have none
    last = losses[-max(1, len(losses) // 20) :]
    return float(sum(last) / len(last))


def _no_better(best: Mapping[str, Any]) -> bool:
    """Whether a training's best validation says no more than the largest class."""
    if best.get("majority") is None:  # of a version that did not count it
        return False
    wrong = best["seen"] - round(best["top1"] * best["seen"])
    return learnt_nothing(wilson_interval(wrong, best["seen"]), best["majority"])


def _learnt_nothing(seeds: Sequence[int]) -> str:
    if not seeds:
        return ""
    return f"learnt nothing (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"


def test_row(row: TestedRow) -> dict[str, str]:
    """Errors of one test over its seeds."""
    first = next(iter(row.by_seed.values()))
    interval = f"{row.interval[0]:.1f} to {row.interval[1]:.1f}" if row.interval else ""
    return {
        "label": row.label,
        "kind": row.kind,
        "scales": ", ".join(map(str, first["scales"])),
        "top1": row.text("top1_error"),
        "top5": row.text("top5_error") if has_top5(len(first["class_accuracy"])) else "",
        "interval": interval,
        "seeds": str(len(row.by_seed)),
        "note": "; ".join(filter(None, [_learnt_nothing(row.seeds_learnt_nothing), _published(row)])),
    }


def _published(row: TestedRow) -> str:
    """Published errors of the same test, where there are any."""
    facts = _facts(row)
    with_norm, plain = tiny_imagenet_errors(facts)
    if with_norm is None and plain is None:
        return ""
    shown = ["–" if error is None else f"{error:.1f}" for error in (with_norm, plain)]
    return f"published: with batch normalisation and Adam {shown[0]}, plain VGG {shown[1]}"


def _facts(row: TestedRow) -> Facts:
    return Facts.of(posteriors.open_file(row.files[min(row.files)], POSTERIORS))


def paper_tables(rows: Sequence[TestedRow]) -> list[ComparisonTable]:
    """The paper's tables with ours, where any of these tests belongs into one."""
    ours = {key: row for row in rows if (key := row_key(_facts(row))) is not None}
    if not ours:
        return []
    tables = []
    for table in TABLES:
        shown = []
        for row in table.rows:
            mine = ours.get(row.key) if row.key is not None else None
            means = None
            if mine is not None:
                top1, top5 = (mine.errors(key) for key in ("top1_error", "top5_error"))
                means = sum(top1) / len(top1), sum(top5) / len(top5)
            shown.append(ComparisonRow(row.label, row.errors, means, mine.label if mine else ""))
        tables.append(ComparisonTable(f"Table {table.number}. {table.title}", "paper", tuple(shown)))
    return tables


def pair_row(pair: ComparedPair) -> dict[str, str]:
    """A difference with its intervals."""
    low, high = pair.difference.interval
    return {
        "label": f"{pair.one} less {pair.other}",
        "protocol": pair.protocol,
        "mean": f"{pair.difference.mean:+.2f}",
        "interval": f"{low:+.2f} to {high:+.2f}",
        "spread": "–" if pair.seeds_spread is None else f"{pair.seeds_spread:.2f}",
        "verdict": pair.verdict,
    }


def cost_rows(results: Mapping[str, StepResult]) -> list[dict[str, str]]:
    """By kind of step and device: hours of workers, images/s, energy."""
    groups: dict[tuple[str, str], list[StepResult]] = {}
    for result in results.values():
        groups.setdefault((result.kind, result.cost.device), []).append(result)
    rows = []
    for (kind, device), steps in sorted(groups.items()):
        seconds = sum(step.cost.seconds * step.cost.workers for step in steps)
        rates = [step.cost.images_per_s for step in steps if step.cost.images_per_s]
        joules = [step.cost.energy_joules for step in steps if step.cost.energy_joules is not None]
        rows.append(
            {
                "kind": kind,
                "device": device,
                "steps": str(len(steps)),
                "hours": f"{seconds / 3600:.3f}",
                "longest": duration(max(step.cost.seconds for step in steps)),
                "rate": f"{min(rates):,.0f} to {max(rates):,.0f}" if rates else "",
                "energy": f"{sum(joules) / 3.6e6:.2f} kWh" if joules else "not measured",
            }
        )
    return rows


STACKS = (((3, 3), (5,)), ((3, 3, 3), (7,)))
"""Stacks of 3×3 convolutions, each beside the one convolution that sees as much (paper, section 2.3)."""


def stack_rows() -> list[dict[str, str]]:
    """Receptive field, weights for C channels, and rectifications of each."""
    return [
        {
            "stack": " and ".join(f"{kernel}×{kernel}" for kernel in kernels),
            "field": str(receptive_field(kernels)),
            "weights": f"{stack_weights(kernels, 1)} C²",
            "layers": str(len(kernels)),
        }
        for pair in STACKS
        for kernels in pair
    ]


def architecture_rows(nodes: Sequence[Node], manifest: Manifest) -> list[dict[str, str]]:
    """What each configuration of the study sees and holds."""
    found: dict[Architecture, None] = {}
    for node in nodes:
        if isinstance(node.step, Training):
            found[node.step.recipe.architecture(len(manifest.classes))] = None
    return [
        {
            "configuration": each.configuration,
            "convolutions": str(sum(layer.kind == "conv" for layer in layers(each))),
            "field": str(last_receptive_field(each)),
            "weights": f"{sum(layer.weights for layer in layers(each) if layer.kind == 'conv'):,}",
            "parameters": f"{parameter_count(each):,}",
            "flop": f"{forward_flops(each):.2e}",
        }
        for each in found
    ]
