"""Fuse nets, protocols and scales from saved posteriors: `python -m vgg.ensemble RESULT RESULT… --out FOLDER`.

No image is scored again: the posteriors of an ensemble are the mean of its members' (paper, section 4.5).
"""

from dataclasses import dataclass
from itertools import combinations

import tyro

from cli.command import arguments, exit_codes
from cli.errors import UserError
from cli.program import program
from pipelines.storage.apart import require_different
from pipelines.storage.folder import Folder
from vgg.metrics.accuracy import Accuracy, accuracy
from vgg.metrics.top5 import has_top5
from vgg.reporting.publish import publish
from vgg.reporting.result import EvaluationResult
from vgg.reporting.result_folder import POSTERIORS, holds_another
from vgg.testing import posteriors
from vgg.testing.posteriors import Posteriors, describe
from vgg.tracking.server import tracking_uri

PRINTED_PAIRS = 10


@dataclass(frozen=True)
class EnsembleOptions:
    """Average the posteriors of evaluations on the same data set."""

    results: tyro.conf.Positional[tuple[str, ...]]
    """Folders of results of python -m vgg.evaluate or of this command, or their posteriors.arrow."""
    out: str
    """Folder or URI for the ensemble's posteriors and result.json."""
    best_pair: bool = False
    """Try every pair of the results and keep the one with the lowest top-1 error, then top-5."""
    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI; without it nothing is tracked."""
    experiment: str = "vgg"
    """Name of the MLflow experiment."""


def main() -> None:
    """Fuse and print. Exit code 2 for a user's mistake."""
    options = tyro.cli(EnsembleOptions, prog=program("vgg.ensemble"), args=arguments())
    with exit_codes():
        result = ensemble(options)
        print(f"{result.summary}\nresult in {result.folder.uri}")


def ensemble(options: EnsembleOptions) -> EvaluationResult:
    """Fuse and publish. UserError, with the reason, if the posteriors cannot be averaged."""
    if not options.results:
        raise UserError("RESULTS is missing: name at least one result")
    uri = tracking_uri(options.track)
    out = Folder(options.out, "--out")
    for path in options.results:
        require_different(out, Folder(_folder_and_file(path)[0], "RESULT"))
    candidates = [read_posteriors(path) for path in options.results]
    _require_different(candidates, options.results)
    if options.best_pair:
        if len(candidates) < 2:
            raise UserError("--best-pair needs at least two results")
        pairs = ranked_pairs(candidates)
        _print_pairs(pairs, options.results)
        candidates = [candidates[i] for i in pairs[0][0]]
    fused = posteriors.mean(candidates)
    out.require_writable()
    out = out.underway()
    if holds_another(out, fused.identity):
        raise UserError(f"--out {options.out} holds the result of another test: name another folder")
    return publish(out, fused, uri, options.experiment, kind="ensemble")


def read_posteriors(path: str) -> Posteriors:
    """The posteriors in a result's folder, or in an .arrow file. UserError if missing or damaged."""
    folder, file = _folder_and_file(path)
    return posteriors.open_file(Folder(folder), file)


def _folder_and_file(path: str) -> tuple[str, str]:
    if not path.endswith(".arrow"):
        return path, POSTERIORS
    folder, _, file = path.rpartition("/")
    return folder or ".", file


def ranked_pairs(candidates: list[Posteriors]) -> list[tuple[tuple[int, int], Accuracy]]:
    """The accuracy of every pair of indices, the best first, whatever the order of the candidates.

    The best has the fewest images wrong, then the fewest whose class is not among the best five; of equal pairs
    the one whose names come first.
    """
    by_name = sorted(range(len(candidates)), key=lambda i: (describe(candidates[i]), candidates[i].digest))
    pairs = []
    for i, j in combinations(by_name, 2):
        fused = posteriors.mean([candidates[i], candidates[j]])
        pairs.append(((min(i, j), max(i, j)), accuracy(fused.posteriors_NK, fused.labels_N)))
    return sorted(pairs, key=lambda pair: (pair[1].top1_wrong, pair[1].top5_wrong))


def _require_different(candidates: list[Posteriors], names: tuple[str, ...]) -> None:
    """UserError naming two that are results of one test."""
    seen: dict[str, str] = {}
    for candidate, name in zip(candidates, names, strict=True):
        if other := seen.get(candidate.identity):
            raise UserError(f"{other} and {name} are results of one test: fuse different ones")
        seen[candidate.identity] = name


def _print_pairs(pairs: list[tuple[tuple[int, int], Accuracy]], names: tuple[str, ...]) -> None:
    for (i, j), pair in pairs[:PRINTED_PAIRS]:
        top5 = f", top-5 {pair.top5_error:.2f} %" if has_top5(len(pair.class_accuracy_K)) else ""
        print(f"top-1 error {pair.top1_error:.2f} %{top5}: {names[i]} + {names[j]}")


if __name__ == "__main__":
    main()
