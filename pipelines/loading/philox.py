"""Philox4x64-10, a counter-based random generator (Salmon et al. 2011), vectorised over counters."""

import numpy as np

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(key: tuple[int, int], counters_B4: np.ndarray) -> np.ndarray:
    """Random words of each counter: uint64 [B, 4] -> uint64 [B, 4]."""
    a, b, c, d = (counters_B4[:, i].copy() for i in range(4))
    for turn in range(10):
        k0 = np.uint64((key[0] + turn * _W0) % 2**64)
        k1 = np.uint64((key[1] + turn * _W1) % 2**64)
        high0, low0 = _multiply(a, _M0)
        high1, low1 = _multiply(c, _M1)
        a, b, c, d = high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0
    return np.stack([a, b, c, d], axis=1)


def _multiply(x: np.ndarray, m: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """High and low words of the 128-bit product."""
    x_low, x_high = x & _LOW, x >> _HALF
    m_low, m_high = m & _LOW, m >> _HALF
    middle = x_high * m_low + ((x_low * m_low) >> _HALF)
    carry = (middle & _LOW) + x_low * m_high
    return x_high * m_high + (middle >> _HALF) + (carry >> _HALF), x * m
