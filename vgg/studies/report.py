"""The report of a study: one page of tables, curves, fusions, cost and differences, on disk and as data."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.shards.manifest import Manifest
from pipelines.shards.splits import HOLDOUT, training_splits, validation_split
from pipelines.storage.folder import Folder
from vgg.reporting.render import page_templates, png
from vgg.studies.following import REPORT
from vgg.studies.graph import Node, Study
from vgg.studies.record import StepResult
from vgg.studies.results import ComparedPair, TestedRow, compared_pairs, tested_rows
from vgg.studies.sheets import answers_of, curves_of
from vgg.studies.steps import StudyJob
from vgg.studies.tables import (
    architecture_rows,
    cost_rows,
    pair_row,
    paper_tables,
    stack_rows,
    test_row,
    training_rows,
)


def write_report(
    study: Study,
    job: StudyJob,
    nodes: Sequence[Node],
    results: Mapping[str, StepResult],
    out: Folder,
    manifest: Manifest,
) -> list[str]:
    """Write report.html, report.md with its pictures, and report.json of what is done; lines that say so."""
    rows = tested_rows(nodes, results)
    if not rows and not any(result.kind == "training" for result in results.values()):
        return []
    pairs = compared_pairs(rows)
    content = {
        "title": study.title,
        "subtitle": _subtitle(job, nodes, results, manifest),
        "validated_on": validation_split(manifest),
        "trainings": training_rows(nodes, results, manifest),
        "tests": [test_row(row) for row in rows],
        "paper": paper_tables(rows),
        "pairs": [pair_row(pair) for pair in pairs],
        "costs": cost_rows(results),
        "stacks": stack_rows(),
        "architectures": architecture_rows(nodes, manifest),
        "missing": [node.name for node in nodes if node.name not in results],
    }
    folder = out.child(REPORT)
    sheets = {"curves": curves_of(nodes, results), "answers": answers_of(rows, job, manifest)}
    files = {name: png(figure) for name, figure in sheets.items() if figure is not None}
    for name, data in files.items():
        folder.write(f"{name}.png", data)
    pictures = {name: b64encode(data).decode() for name, data in files.items()}
    for name in ("html", "md"):
        template = page_templates("vgg.studies").get_template(f"study.{name}.jinja")
        folder.write(f"report.{name}", template.render(**content, pictures=pictures).encode())
    folder.write_json("report.json", to_json(rows, pairs, results))
    best = min(rows, key=lambda row: sum(row.errors("top1_error")) / len(row.by_seed), default=None)
    found = f"; lowest top-1 error {best.text('top1_error')} %, of {best.label}" if best else ""
    return [f"report: {folder.uri}/report.html, report.md, report.json{found}"]


def to_json(
    rows: Sequence[TestedRow], pairs: Sequence[ComparedPair], results: Mapping[str, StepResult]
) -> dict[str, Any]:
    """What a program reads: the same for the same results, however often the study was stopped."""
    return {
        "format": 1,
        "tests": [
            {
                "step": row.step,
                "kind": row.kind,
                "protocol": row.protocol,
                "scales": row.scales,
                "top1_error": {str(seed): r["top1_error"] for seed, r in sorted(row.by_seed.items())},
                "top5_error": {str(seed): r["top5_error"] for seed, r in sorted(row.by_seed.items())},
                "posteriors_sha256": {
                    str(seed): r["posteriors_sha256"] for seed, r in sorted(row.by_seed.items())
                },
            }
            for row in rows
        ],
        "differences": [{**asdict(pair), "larger": pair.verdict} for pair in pairs],
        "weights_sha256": {
            name: result.outputs["weights"]["sha256"]
            for name, result in sorted(results.items())
            if result.kind == "training"
        },
    }


def _subtitle(
    job: StudyJob, nodes: Sequence[Node], results: Mapping[str, StepResult], manifest: Manifest
) -> str:
    seeds = len({node.seed for node in nodes})
    train, chosen, tested = (f"{manifest.splits[s].images:,}" for s in (*training_splits(manifest), "val"))
    apart = f"{chosen} held out of the training images for every choice, " if HOLDOUT in manifest.splits else ""
    commit, tree = (job.software.get(key, "unknown") for key in ("commit", "tree"))
    return (
        f"{manifest.source}, {len(manifest.classes)} classes, {train} images to train on, {apart}"
        f"{tested} validation images to test on; {len(results)} of {len(nodes)} steps done; "
        f"{seeds} seed{'s' if seeds > 1 else ''}; "
        f"commit {commit[:12]} ({tree}), code {job.code[:12]}"
    )
