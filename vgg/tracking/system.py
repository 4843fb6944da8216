"""Utilisation of the machine, under the names that MLflow's system metrics page shows."""

from contextlib import suppress

import psutil
import pynvml


class SystemMonitor:
    """Samples CPU, memory, disk, network and GPUs; network traffic counts from its construction."""

    def __init__(self) -> None:
        self._network = psutil.net_io_counters()
        psutil.cpu_percent()  # the first call has no interval to measure

    def sample(self) -> dict[str, float]:
        """Metrics by name: CPU utilisation since the previous sample, the rest at this moment."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage("/"), psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / 1e6,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / 1e6,
            **_gpus(),
        }
        return {f"system/{name}": value for name, value in values.items()}


def _gpus() -> dict[str, float]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}  # no driver, no GPU
    values = {}
    for i in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(i)
        # Not every GPU reports everything: a MIG slice has neither utilisation nor power.
        with suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            values[f"gpu_{i}_memory_usage_megabytes"] = memory.used / 1e6
            values[f"gpu_{i}_memory_usage_percentage"] = 100 * memory.used / memory.total
        with suppress(pynvml.NVMLError):
            values[f"gpu_{i}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        with suppress(pynvml.NVMLError):
            watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
            values[f"gpu_{i}_power_usage_watts"] = watts
            limit_watts = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
            values[f"gpu_{i}_power_usage_percentage"] = 100 * watts / limit_watts
    return values
