"""A card for each tested data set: its best result at a glance."""

from collections.abc import Callable, Sequence

from vgg.reporting.paper_conditions import reference
from vgg.reporting.render import Card
from vgg.reporting.tables import TrackedResult, best_by_data


def cards(results: Sequence[TrackedResult], page: Callable[[str], str]) -> list[Card]:
    """One for each data set and split. `results` come newest first; `page`: the address of a run's."""
    of_run = {result.run_id: result for result in results}
    return [
        _card(data, of_run[tests[0]], len(tests), page(tests[0]))
        for data, tests in best_by_data(results).items()
    ]


def _card(data: str, best: TrackedResult, tests: int, link: str) -> Card:
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
        f"{tests} test{'s' if tests > 1 else ''}",
        link,
    )
