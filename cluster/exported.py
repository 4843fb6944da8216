"""Numbers of a running job on the metrics pages of its nodes, for Prometheus: Ray shows them as `ray_vgg_…`.

https://docs.ray.io/en/latest/ray-observability/user-guides/add-app-metrics.html
"""

from ray.util.metrics import Gauge

PREFIX = "vgg_"


class Gauges:
    """Shows the last value of each number, for as long as this process lives."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}

    def __call__(self, name: str, value: float, **tags: str) -> None:
        """`tags`: the same names for one `name`, whenever it is given."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(PREFIX + name, tag_keys=tuple(tags))
        self._gauges[name].set(value, tags)
