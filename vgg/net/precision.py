"""The arithmetic a net runs in; weights stay float32."""

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of the arithmetic that `precision` stands for on this device."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class MixedPrecision:
    """Autocast to one type on one device, and the loss scaler that float16 needs."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._device_type = device.type

    @property
    def name(self) -> str:
        """fp32, bf16 or fp16."""
        return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self) -> torch.autocast:
        """The context in which to run the net forward."""
        return torch.autocast(self._device_type, self.dtype, enabled=self.dtype != torch.float32)


def set_gpu_numerics(device: torch.device, *, deterministic: bool) -> None:
    """Choose the arithmetic of a GPU's kernels for this process; nothing on a CPU."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
        torch.use_deterministic_algorithms(deterministic)
        # fp32 means IEEE arithmetic, not ten bits of it.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
