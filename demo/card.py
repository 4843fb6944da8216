"""What the demo shows of its training when all is done."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.panel import Panel

from vgg.metrics.interval import wilson_interval


def card(result: Mapping[str, Any], data: str, seconds: float) -> Panel:
    """Accuracy with its interval, speed and time of a training; `result`: the content of its result.json."""
    best = result["best"]
    low, high = wilson_interval(round(best["seen"] * (1 - best["top1"])), best["seen"])  # of the error
    lines = [
        f"best validation accuracy  [bold]{best['top1']:.2%}[/] (95 %: {100 - high:.2f} to {100 - low:.2f}) "
        f"of {best['seen']:,} images",
        f"at step                   {best['step']:,} of {result['steps']:,}",
        f"largest class alone       {best['majority']:.2%}",
    ]
    if result["images_per_s"] is not None:  # else it had gone on where only a validation was missing
        lines.append(
            f"speed                     {result['images_per_s']:,.0f} images/s, "
            f"{result['data_wait_share']:.0%} of the time waiting for data"
        )
    lines.append(f"total time                {seconds:.0f} s")
    return Panel("\n".join(lines), title=f"VGG {result['settings']['model.configuration']} on {escape(data)}")
