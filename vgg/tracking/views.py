"""MLflow's own pages over our runs: which columns, order and charts they show, and where they are."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from mlflow import MlflowClient
from vgg.tracking.server import page_address

NAME = "vgg"


COLUMNS = (
    "tags.`kind`",
    "tags.`configuration`",
    "tags.`protocol`",
    "tags.`scales`",
    "metrics.`top1_error`",
    "metrics.`top5_error`",
    "metrics.`top1_error_over_published`",
    "metrics.`val/top1_error`",
)
"""Of the runs table, so that it says which configuration, which protocol, and how far from the paper."""


CHARTS = ("top1_error", "top5_error", "top1_error_over_published")


COMPARED = 10
"""Tests that the link to the comparison takes."""


def save_view(client: "MlflowClient", experiment_id: str) -> None:
    """Keep a view of the runs in the experiment, as MLflow's "share view" does: best tests first."""
    state = {
        "searchFilter": "tags.kind != 'report'",
        "orderByKey": "metrics.`top1_error`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": COLUMNS,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "compareRunCharts": [
            {
                "type": "BAR",
                "uuid": f"{NAME}-{metric}",
                "metricKey": metric,
                "metricSectionId": NAME,
                "runsCountToCompare": 20,
                "deleted": False,
                "isGenerated": False,
            }
            for metric in CHARTS
        ],
        "isAccordionReordered": True,
        "compareRunSections": [
            {
                "uuid": NAME,
                "name": "Tests",
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        "viewMaximized": False,
        "runListHidden": False,
    }
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{NAME}", json.dumps(state))


def links(uri: str, experiment_id: str, best: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What a page shows -> its address. `best`: ids of runs by data set, the best test first."""
    runs = f"{page_address(uri)}/#/experiments/{experiment_id}/runs?viewStateShareKey={NAME}"
    found = {"all runs with these columns": runs, "as charts": f"{runs}&compareRunsMode=CHART"}
    for data, tests in best.items():
        if len(tests) > 1:
            ids = json.dumps(list(tests[:COMPARED]), separators=(",", ":"))
            compared = quote(f'runs={ids}&experiments=["{experiment_id}"]', safe="=&")
            found[f"the best on {data} beside each other"] = f"{page_address(uri)}/#/compare-runs?{compared}"
    return found
