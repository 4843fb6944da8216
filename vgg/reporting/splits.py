"""Results on several splits of a data set, beside each other."""

from collections.abc import Sequence

from rich.table import Table

from vgg.reporting.result import EvaluationResult

Test = tuple[str, str, str]
"""Net, protocol and scales."""


def splits_beside_each_other(results: Sequence[EvaluationResult]) -> Table:
    """A row for each net, protocol and scales, a column for each split: top-1 error with its 95 % interval."""
    errors: dict[Test, dict[str, str]] = {}
    for each in results:
        result = each.result
        test = result["net"], result["protocol"], ", ".join(map(str, result["scales"]))
        low, high = result["top1_interval"]
        cell = f"{result['top1_error']:.2f} ({low:.2f} to {high:.2f})"
        errors.setdefault(test, {})[result["data"]["split"]] = cell
    splits = list(dict.fromkeys(split for of_test in errors.values() for split in of_test))
    table = Table("net", "protocol", "Q", *splits, title="top-1 error, %")
    for test, by_split in errors.items():
        table.add_row(*test, *(by_split.get(split, "–") for split in splits))
    return table
