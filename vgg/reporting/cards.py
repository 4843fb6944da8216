"""A card for each tested data set: its best result at a glance."""

from collections.abc import Callable, Sequence

from vgg.reporting.paper_conditions import reference
from vgg.reporting.render import Card
from vgg.reporting.tables import TrackedResult, best_by_data, of_largest_class


def cards(results: Sequence[TrackedResult], page: Callable[[str], str]) -> list[Card]:
    """One for each data set and split. `results` come newest first; `page`: the address of a run's."""
    of_run = {result.run_id: result for result in results}
    found = []
    for data, tests in best_by_data(results).items():
        best, *others = (of_run[run_id] for run_id in tests)
        found.append(_card(data, best, others, page(best.run_id)))
    return found


def _card(data: str, best: TrackedResult, others: Sequence[TrackedResult], link: str) -> Card:
    error, published = best.errors[0], reference(best.facts)[0]
    assert error is not None, "every test has a top-1 error"
    distance = "nothing published to compare with"
    if published is not None:
        distance = f"{error - published:+.1f} from published"
    scales = ", ".join(map(str, best.key.scales))
    return Card(
        data,
        f"{best.net}, {best.key.protocol}, Q = {scales}",
        error,
        best.interval,
        f"{best.images:,}",
        distance,
        f"{1 + len(others)} test{'s' if others else ''}",
        link,
        tuple(filter(None, (of_largest_class([best]), _within_interval(best, others)))),
    )


def _within_interval(best: TrackedResult, others: Sequence[TrackedResult]) -> str:
    """A sentence where the best is hardly better than others: it is the lowest of several noisy errors."""
    if best.interval is None:
        return ""
    low, high = best.interval
    errors = [other.errors[0] for other in others if other.errors[0] is not None]
    within = sum(low <= error <= high for error in errors)
    if not within:
        return ""
    if within < len(others):
        which = f"{within} of the {len(others)} other tests lie{'s' if within == 1 else ''}"
    else:
        which = f"All {within} other tests lie" if within > 1 else "The other test lies"
    return f"{which} within its interval, so which is best may be chance."
