"""Fuse nets, protocols and scales from saved posteriors: `python -m vgg.ensemble RESULT RESULT… --out FOLDER`.

Nothing is run again: the ensemble's posterior is the mean of its members' (paper, section 4.5).
"""

import sys
from dataclasses import dataclass
from itertools import combinations

import tyro

from cli.command import print_error
from pipelines.storage.folder import Folder
from vgg.evaluate import show
from vgg.metrics.accuracy import Accuracy, accuracy
from vgg.reporting.publish import Published, publish
from vgg.testing import posteriors
from vgg.testing.posteriors import Posteriors
from vgg.tracking.server import tracking_uri

SHOWN_PAIRS = 10


@dataclass(frozen=True)
class EnsembleOptions:
    """Average the posteriors of any tests of one data set."""

    tests: tyro.conf.Positional[tuple[str, ...]]
    """Folders that python -m vgg.evaluate or this command left, or their posteriors.arrow."""
    out: str
    """Folder or URI for the ensemble's posteriors and result.json."""
    best_pair: bool = False
    """Try every pair of the tests and keep the one with the smallest top-1 error, then top-5."""
    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI; without it nothing is tracked."""
    experiment: str = "vgg"


def main() -> None:
    """Fuse and print. Exit code 2 for a user's mistake."""
    options = tyro.cli(EnsembleOptions, prog="python -m vgg.ensemble")
    try:
        published = ensemble(options)
    except ValueError as error:
        sys.exit(print_error(error, 2))
    show([published])


def ensemble(options: EnsembleOptions) -> Published:
    """Fuse as asked. ValueError, with the reason, where the tests do not fit each other."""
    tests = [read_test(test) for test in options.tests]
    if options.best_pair:
        if len(tests) < 2:
            raise ValueError("--best-pair needs at least two tests")
        scored = pairs(tests)
        _show_pairs(scored, options.tests)
        fused = posteriors.mean([tests[place] for place in scored[0][0]])
    else:
        fused = posteriors.mean(tests)
    uri = tracking_uri(options.track)
    return publish(Folder(options.out), fused, uri, options.experiment, kind="ensemble")


def read_test(test: str) -> Posteriors:
    """Posteriors of a test's folder or file. ValueError where there are none, or they are damaged."""
    folder, _, file = test.rpartition("/") if test.endswith(".arrow") else (test, "", "posteriors.arrow")
    return posteriors.read(Folder(folder or "."), file)


def pairs(tests: list[Posteriors]) -> list[tuple[tuple[int, int], Accuracy]]:
    """Every pair of places with what it scores, the best first; of equals, the one named first."""
    scored = []
    for i, j in combinations(range(len(tests)), 2):
        fused = posteriors.mean([tests[i], tests[j]])
        scored.append(((i, j), accuracy(fused.posteriors_NK, fused.labels_N)))
    return sorted(scored, key=lambda pair: (pair[1].top1_wrong, pair[1].top5_wrong))


def _show_pairs(scored: list[tuple[tuple[int, int], Accuracy]], names: tuple[str, ...]) -> None:
    for (i, j), found in scored[:SHOWN_PAIRS]:
        print(f"top-1 error {found.top1_error:.2f} %, top-5 {found.top5_error:.2f} %: {names[i]} + {names[j]}")


if __name__ == "__main__":
    main()
