"""Dropout with counter-based random numbers: the mask is computed where it is needed, never stored.

Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011) turns a counter of four words
of 32 bits into four random ones, so an element's fate depends on its place alone, on no thread and no call
before.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.views import BLOCK
from dhhpc_kernels.parallel import run_shares

F = np.float32
U = np.uint32
_QUARTER = BLOCK // 4  # counters of a block


@compile_part
def _round(words: np.ndarray, width: int, key0: np.uint32, key1: np.uint32) -> None:
    """One round of Philox on `width` counters, whose first words come first, then their second ones, ..."""
    word0 = words[:width]
    word1 = words[width : 2 * width]
    word2 = words[2 * width : 3 * width]
    word3 = words[3 * width : 4 * width]
    for i in range(width):
        first = np.uint64(0xD2511F53) * np.uint64(word0[i])
        second = np.uint64(0xCD9E8D57) * np.uint64(word2[i])
        word0[i] = U(second >> np.uint64(32)) ^ word1[i] ^ key0
        word1[i] = U(second)
        word2[i] = U(first >> np.uint64(32)) ^ word3[i] ^ key1
        word3[i] = U(first)


@compile_kernel
def _dropout(
    x: np.ndarray,
    out: np.ndarray,
    threshold: np.uint32,
    scale: np.float32,
    key0: np.uint32,
    key1: np.uint32,
    layer: np.uint32,
    step: np.uint32,
    first_sample: int,
    begin: int,
    end: int,
) -> None:
    length = x.shape[1]
    blocks = (length + BLOCK - 1) // BLOCK
    words = np.empty(BLOCK, np.uint32)
    buffer = np.empty(BLOCK, np.float32)
    for unit in range(begin, end):
        n = unit // blocks
        block = unit % blocks
        value = x[n, block * BLOCK : min((block + 1) * BLOCK, length)]
        width = (value.size + 3) // 4
        for i in range(width):
            words[i] = U(block * _QUARTER + i)
        words[width : 2 * width] = U(first_sample + n)
        words[2 * width : 3 * width] = step
        words[3 * width : 4 * width] = layer
        for number in range(10):
            _round(words, width, U(key0 + U(number) * U(0x9E3779B9)), U(key1 + U(number) * U(0xBB67AE85)))
        for i in range(value.size):
            buffer[i] = value[i] * scale if words[i] >= threshold else F(0)
        # By way of the buffer, so that it vectorises in place too.
        target = out[n, block * BLOCK : min((block + 1) * BLOCK, length)]
        for i in range(target.size):
            target[i] = buffer[i]


def dropout(
    x: np.ndarray, out: np.ndarray, rate: float, seed: int, layer: int, step: int, first_sample: int = 0
) -> None:
    """out = 0 with probability `rate`, else x / (1 - rate) (Srivastava et al. 2014, scaled while training).

    float32 (N,...) of one shape; out may be x. The gradient is the same function of the gradient, with the
    same numbers. Sample n draws by key `seed` (64 bits) from the counters (i, first_sample + n, step, layer):
    its elements fall into blocks of 1024 (BLOCK); element p of a block of s is word p // w of counter
    256 block + p % w, w = s / 4 rounded up, and stays if that word is at least rate * 2**32.

    Raises ValueError unless rate lies in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout rate {rate} must lie in [0, 1)")
    count = x.shape[0]
    length = x.size // max(count, 1)
    run_shares(
        _dropout,
        count * -(-length // BLOCK),
        4 * x.size,  # as much time as four times the floats that are only copied
        x.reshape(count, length, copy=False),
        out.reshape(count, length, copy=False),
        U(round(rate * 2**32)),
        F(1 / (1 - rate)),
        U(seed & 0xFFFFFFFF),
        U(seed >> 32 & 0xFFFFFFFF),
        U(layer),
        U(step & 0xFFFFFFFF),
        first_sample,
    )
