"""The description of a net's page in MLflow: what it is, and what every protocol found."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vgg.metrics.top5 import has_top5
from vgg.tracking.mlflow_client import translated_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

DESCRIPTION_TAG = "mlflow.note.content"
COLUMNS = (
    "data",
    "protocol",
    "Q",
    "images",
    "largest class, %",
    "top-1 error, %",
    "95 % interval",
    "top-5 error, %",
    "from the paper",
)
"""Those in which no test has anything are left out."""
SPACE = "&emsp;"
"""Between columns, which MLflow's page sets without any space, and no style reaches."""
LEAST_ROW_CHARACTERS = 100
MAX_CHARACTERS = 4900
"""MLflow's database takes 5000 of a model's tag: of more tests, those of the first data sets are listed."""


def describe(client: "MlflowClient", model_id: str) -> None:
    """Write the description anew, from the net's tags and the tests that are linked to it."""
    with translated_errors():
        model = client.get_logged_model(model_id)
        rows = _rows(client, model)
        text = _introduction(model)
        if rows:
            text += "\n\n"
        for line in _table(rows):
            if len(text) + len(line) >= MAX_CHARACTERS:
                break
            text += line + "\n"
        client.set_logged_model_tags(model_id, {DESCRIPTION_TAG: text[:MAX_CHARACTERS]})


def _introduction(model: "LoggedModel") -> str:
    tags = model.tags
    known = {
        "Configuration": tags.get("configuration"),
        "recipe": tags.get("recipe"),
        "trained on": tags.get("data"),
        "best of the training at step": tags.get("step"),
    }
    return ", ".join(f"{what} **{value}**" for what, value in known.items() if value) or f"**{model.name}**"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Header, rule and rows, without the columns that are empty in all rows."""
    shown = [place for place in range(len(COLUMNS)) if any(row[place] for row in rows)]
    lines = [
        "| " + f" | {SPACE}".join((row[place] or "–").replace("|", "\\|") for place in shown) + " |"
        for row in (COLUMNS, *rows)
    ]
    return [lines[0], "|" + "---|" * len(shown), *lines[1:]] if rows else []


def _rows(client: "MlflowClient", model: "LoggedModel") -> list[tuple[str, ...]]:
    """A row a test, the lowest error first within its data set; of a net alone, as an ensemble has no model."""
    found: dict[str, dict[str, float]] = {}
    data: dict[str, str] = {}
    for metric in model.metrics or []:
        if metric.run_id is not None and metric.run_id != model.source_run_id:
            found.setdefault(metric.run_id, {})[metric.key] = metric.value
            data[metric.run_id] = metric.dataset_name or ""
    tests = sorted(
        (data[run_id], values["top1_error"], run_id)
        for run_id, values in found.items()
        if "top1_error" in values
    )
    rows: list[tuple[str, ...]] = []
    for of_data, error, run_id in tests[: MAX_CHARACTERS // LEAST_ROW_CHARACTERS]:
        values, tags = found[run_id], client.get_run(run_id).data.tags
        low, high = values.get("top1_error_low"), values.get("top1_error_high")
        share, over = values.get("majority_share"), values.get("top1_error_over_published")
        row = (
            of_data if tags.get("split", "val") == "val" else f"{of_data}, {tags['split']}",
            tags.get("protocol", ""),
            tags.get("Q", tags.get("scales", "")),
            f"{values['images']:,.0f}" if "images" in values else "",
            "" if share is None else f"{100 * share:.1f}",
            f"{error:.2f}",
            "" if low is None or high is None else f"{low:.2f} to {high:.2f}",
            f"{values['top5_error']:.2f}" if "top5_error" in values and _tells_top5(tags) else "",
            "" if over is None else f"{over:+.2f}",
        )
        rows.append(row)
    return rows


def _tells_top5(tags: Mapping[str, str]) -> bool:
    """Whether there is a top-5 error to show: earlier versions tracked one of however few classes."""
    classes = tags.get("classes", "")
    return not classes.isdecimal() or has_top5(int(classes))
