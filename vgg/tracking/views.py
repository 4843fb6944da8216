"""MLflow's own pages of an experiment: a shared view of the runs table, and links to it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vgg.tracking.server import ui_page

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW_NAME, CHARTS_NAME = "vgg", "vgg-charts"

# Columns of the runs table: which configuration, which protocol, how far from the paper.
COLUMNS = (
    "tags.`data`",
    "tags.`configuration`",
    "tags.`protocol`",
    "tags.`Q`",
    "metrics.`top1_error`",
    "metrics.`top5_error`",
    "metrics.`top1_error_over_published`",
    "metrics.`best/top1_error`",
)
CHARTS = ("top1_error", "top5_error", "top1_error_over_published")
MAX_COMPARED_TESTS = 10

DIFFERENCE_STATE = {
    "type": "DIFFERENCE",
    "uuid": f"{VIEW_NAME}-difference",
    "chartName": "What differs",
    "compareGroups": ["Model metrics", "Parameters"],
    "showChangeFromBaseline": False,
    "showDifferencesOnly": True,
    "baselineColumnUuid": "",
    "metricSectionId": f"{VIEW_NAME}-difference",
    "runsCountToCompare": 10,
    "deleted": False,
    "isGenerated": False,
}
"""First of the charts: the settings and errors in which the chosen runs differ, those alone."""

CHART_STATES = [
    DIFFERENCE_STATE,
    *(
        {
            "type": "BAR",
            "uuid": f"{VIEW_NAME}-{metric}",
            "metricKey": metric,
            "metricSectionId": VIEW_NAME,
            "runsCountToCompare": 20,
            "deleted": False,
            "isGenerated": False,
        }
        for metric in CHARTS
    ),
]
CHART_SECTION = {
    "uuid": VIEW_NAME,
    "name": "Tests",
    "display": True,
    "isReordered": True,
    "deleted": False,
    "isGenerated": False,
}
DIFFERENCE_SECTION = {
    **CHART_SECTION,
    "uuid": f"{VIEW_NAME}-difference",
    "name": "What differs",
    "columns": 1,
    "cardHeight": 420,
}
# What MLflow's "share view" stores, best tests first.
VIEW_STATE: dict[str, Any] = {
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
    "compareRunCharts": CHART_STATES,
    "isAccordionReordered": True,
    "compareRunSections": [DIFFERENCE_SECTION, CHART_SECTION],
    "viewMaximized": False,
    "runListHidden": False,
}


BY_DATA_SET = {"aggregateFunction": "min", "groupByKeys": [{"mode": "dataset", "groupByData": "dataset"}]}


def save_view(client: "MlflowClient", experiment_id: str) -> None:
    """Store the views in the experiment, as MLflow's "share view" does: the table grouped by data set, and the
    charts, which would show groups in place of runs, without groups."""
    for name, state in ((VIEW_NAME, {**VIEW_STATE, "groupBy": BY_DATA_SET}), (CHARTS_NAME, VIEW_STATE)):
        client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{name}", json.dumps(state))


def links(uri: str, experiment_id: str, best: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Addresses of MLflow's pages by what they show. `best`: ids of runs by data set, the best test first."""
    runs = ui_page(uri, f"experiments/{experiment_id}/runs?viewStateShareKey={VIEW_NAME}")
    charts = f"experiments/{experiment_id}/runs?viewStateShareKey={CHARTS_NAME}&compareRunsMode=CHART"
    found = {"all runs with these columns": runs, "as charts": ui_page(uri, charts)}
    for data, tests in best.items():
        if len(tests) > 1:
            ids = json.dumps(list(tests[:MAX_COMPARED_TESTS]), separators=(",", ":"))
            compared = quote(f'runs={ids}&experiments=["{experiment_id}"]', safe="=&")
            found[f"the best on {data} beside each other"] = ui_page(uri, f"compare-runs?{compared}")
    return found
