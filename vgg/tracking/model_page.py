"""The description of a net's page in MLflow: what it is, and what every protocol found."""

from typing import TYPE_CHECKING

from vgg.tracking.mlflow_client import translated_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

DESCRIPTION_TAG = "mlflow.note.content"
HEADER = """\
| data | protocol | Q | images | top-1 error, % | 95 % interval | top-5 error, % | from the paper |
|---|---|---|---|---|---|---|---|
"""
MAX_CHARACTERS = 4900
"""MLflow's database takes 5000 of a model's tag: of more tests, those of the first data sets are listed."""


def describe(client: "MlflowClient", model_id: str) -> None:
    """Write the description anew, from the net's tags and the tests that are linked to it."""
    with translated_errors():
        model = client.get_logged_model(model_id)
        rows = _rows(client, model)
        text = _introduction(model)
        if rows:
            text += "\n\n" + HEADER
        for row in rows:
            if len(text) + len(row) >= MAX_CHARACTERS:
                break
            text += row + "\n"
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


def _rows(client: "MlflowClient", model: "LoggedModel") -> list[str]:
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
    rows = []
    for of_data, error, run_id in tests[: MAX_CHARACTERS // len(HEADER.splitlines()[1])]:
        values, tags = found[run_id], client.get_run(run_id).data.tags
        low, high = values.get("top1_error_low"), values.get("top1_error_high")
        cells = (
            of_data if tags.get("split", "val") == "val" else f"{of_data}, {tags['split']}",
            tags.get("protocol", ""),
            tags.get("Q", tags.get("scales", "")),
            f"{values['images']:,.0f}" if "images" in values else "",
            f"{error:.2f}",
            "" if low is None or high is None else f"{low:.2f} to {high:.2f}",
            f"{values['top5_error']:.2f}" if "top5_error" in values else "",
            f"{values['top1_error_over_published']:+.2f}" if "top1_error_over_published" in values else "–",
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows
