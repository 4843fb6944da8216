"""The bytes of a safetensors file in pieces that are not copies: whoever writes or digests a large one piece by
piece leaves Python to other threads meanwhile, which the library's `save` does not.

    8 bytes: length of the header | the header, JSON padded with spaces to a multiple of 8 | the tensors
"""

import json
from collections.abc import Mapping

import torch

ALIGNMENT = 8
TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""In the order in which they lie in a file, whatever their names."""


def pieces(tensors: Mapping[str, torch.Tensor]) -> list[memoryview]:
    """What the library's `save` returns, in parts. The tensors are contiguous and on the CPU; the pieces are
    their own memory."""
    types = list(TYPES)
    names = sorted(tensors, key=lambda name: (types.index(tensors[name].dtype), name))
    entries, end = {}, 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        entries[name] = {
            "dtype": TYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    data = [_bytes(tensors[name]) for name in names if tensors[name].nbytes]
    return [memoryview(len(header).to_bytes(8, "little") + header), *data]


def _bytes(tensor: torch.Tensor) -> memoryview:
    assert tensor.is_contiguous()
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data
