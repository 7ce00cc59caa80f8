"""Vectors made small to be sent: numbers of two bytes, or only the largest ones. Knows no ranks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Compression(ABC):
    """One way. What cannot be told exactly is left over: the vector less what `add` makes of it.

    NaN and infinite numbers stay so, in order that nobody takes a diverged network for a sound one. Finite
    ones stay finite, but for those that rounding takes beyond the largest float32.
    """

    @abstractmethod
    def size_of(self, count: int) -> int:
        """The bytes for a vector of so many numbers, the same for all of that length."""

    @abstractmethod
    def encode(self, vector: Array, payload: Array) -> None:
        """Write a float32 vector into the beginning of `payload`, uint8, at least `size_of` it."""

    @abstractmethod
    def add(self, payload: Array, vector: Array, sign: int = 1) -> None:
        """Add what `encode` wrote to a vector of the same length, or take it off with a `sign` of -1."""


class Half(Compression):
    """Every number in two bytes."""

    def add(self, payload: Array, vector: Array, sign: int = 1) -> None:
        with np.errstate(invalid="ignore", over="ignore"):  # infinity less infinity is NaN, as it should be
            if sign > 0:
                vector += self.decode(payload, vector.size)
            else:
                vector -= self.decode(payload, vector.size)

    @abstractmethod
    def decode(self, payload: Array, count: int) -> Array:
        """The numbers again, float32."""


class BFloat16(Half):
    """The upper half of a float32, rounded to the nearest, to even in the middle: its range, and 8 bits."""

    def size_of(self, count: int) -> int:
        return 2 * count

    def encode(self, vector: Array, payload: Array) -> None:
        bits = vector.view(np.uint32)
        rounded = (bits >> 16) & 1
        rounded += 0x7FFF
        rounded += bits
        rounded >>= 16
        # A NaN whose upper bits are those of infinity, or that rounding carries over, stays one.
        unordered = np.isnan(vector)
        rounded[unordered] = (bits[unordered] >> 16) | 0x40
        payload[: 2 * vector.size].view(np.uint16)[:] = rounded

    def decode(self, payload: Array, count: int) -> Array:
        bits = payload[: 2 * count].view(np.uint16).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)


class Float16(Half):
    """IEEE 754 half precision, 11 bits, of the numbers times a power of two that is sent ahead.

    It brings the largest finite one between 2**14 and 2**15: none overflows, and gradients far below the
    smallest half (Micikevicius et al., 2018, "Mixed precision training", section 3.2) keep their bits.
    """

    def size_of(self, count: int) -> int:
        return 4 + 2 * count

    def encode(self, vector: Array, payload: Array) -> None:
        magnitudes = np.abs(vector)
        largest = magnitudes.max(initial=0)
        if not np.isfinite(largest):
            largest = magnitudes.max(initial=0, where=np.isfinite(magnitudes))
        # 2**126 is the largest power whose inverse has all its bits, too.
        exponent = min(15 - int(np.frexp(largest)[1]), 126) if largest > 0 else 0
        payload[:4].view(np.float32)[0] = math.ldexp(1.0, -exponent)
        payload[4 : 4 + 2 * vector.size].view(np.float16)[:] = vector * np.float32(math.ldexp(1.0, exponent))

    def decode(self, payload: Array, count: int) -> Array:
        numbers = payload[4 : 4 + 2 * count].view(np.float16).astype(np.float32)
        numbers *= payload[:4].view(np.float32)[0]
        return numbers


class TopK(Compression):
    """A share of the numbers, those of the largest magnitude, each with its place: 8 bytes a number.

    Args:
        ratio: above 0, at most 1; at least one number of a vector is sent.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def count_of(self, count: int) -> int:
        """How many of so many numbers are sent."""
        return min(count, max(1, math.ceil(self.ratio * count)))

    def size_of(self, count: int) -> int:
        return 8 * self.count_of(count)

    def encode(self, vector: Array, payload: Array) -> None:
        kept = self.count_of(vector.size)
        if kept == 0:
            return
        # NaN counts as larger than all.
        largest = np.argpartition(np.abs(vector), vector.size - kept)[vector.size - kept :]
        largest.sort()
        payload[: 4 * kept].view(np.uint32)[:] = largest
        payload[4 * kept : 8 * kept].view(np.float32)[:] = vector[largest]

    def add(self, payload: Array, vector: Array, sign: int = 1) -> None:
        kept = self.count_of(vector.size)
        places = payload[: 4 * kept].view(np.uint32)
        numbers = payload[4 * kept : 8 * kept].view(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            vector[places] += sign * numbers
