"""The arithmetic a net runs in; weights stay float32."""

import os
from collections.abc import Sequence
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of the arithmetic that `precision` stands for in a test on this device."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def training_precision(precision: Precision, device: torch.device) -> str:
    """What `precision` stands for in a training on this device: as in a test, but on CPUs `auto` is bf16 where
    the processor multiplies it faster."""
    if precision == "auto" and device.type == "cpu":
        return "bf16" if multiplies_bf16() else "fp32"
    return _name(autocast_dtype(precision, device))


def multiplies_bf16() -> bool:
    """Whether this machine's CPU multiplies bf16 faster than float32: by AMX, or by AVX512-BF16.

    AVX512-FP16 without AMX is an Intel processor whose AMX the hypervisor hides: there AVX512-BF16 is slower
    than float32 (docs/performance.md, a training step).
    """
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and not has.get("avx512_fp16")))


def common_precision(workers: Sequence[str]) -> str:
    """What workers train in that would each train in one of these: the same arithmetic, else fp32."""
    return workers[0] if len(set(workers)) == 1 else "fp32"


def _name(dtype: torch.dtype) -> str:
    return {value: name for name, value in DTYPES.items()}[dtype]


class MixedPrecision:
    """Autocast to one type on one device, and the loss scaler that float16 needs."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._device_type = device.type

    @property
    def name(self) -> str:
        """fp32, bf16 or fp16."""
        return _name(self.dtype)

    def autocast(self) -> torch.autocast:
        """The context in which to run the net forward."""
        return torch.autocast(self._device_type, self.dtype, enabled=self.dtype != torch.float32)


def set_gpu_numerics(device: torch.device, *, deterministic: bool) -> None:
    """Choose the arithmetic of a GPU's kernels for this process, before its first; nothing on a CPU.

    cuBLAS is deterministic with a workspace of its own for each stream
    (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
    """
    if device.type == "cuda":
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not deterministic
        torch.use_deterministic_algorithms(deterministic)
        # fp32 means IEEE arithmetic, not ten bits of it.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
