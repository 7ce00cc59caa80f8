"""exp, log and tanh on float32 written so that LLVM vectorises the loops that call them.

Numba's own call the C library once an element. Coefficients: Cephes expf, logf and tanhf (S. Moshier), about
1 unit in the last place.
"""

import numpy as np
from numba import njit

F = np.float32
I = np.int32  # noqa: E741

# No 'reassoc' here: the two-part reduction by ln 2 is exact only in this order.
_EXACT = {"contract", "nsz"}


@njit(fastmath=_EXACT)
def exponential(x: np.float32) -> np.float32:
    """exp(x): infinity above float32's range, 0 below its normal numbers (x < -86.9), NaN for NaN."""
    x = F(89.0) if x > F(89.0) else x
    x = F(-87.3) if x < F(-87.3) else x
    n = np.floor(x * F(1.44269504088896341) + F(0.5))
    r = x - n * F(0.693359375) + n * F(2.12194440e-4)
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    p = p * (r * r) + r + F(1.0)
    # NaN has no integer; any will do, as p is NaN then.
    exponent = I(n) if n == n else I(0)
    # 2**(n - 1), because 2**128 is no float32 while its half times p may be. A product and not a shift, which
    # Numba would take in 64 bits.
    half = I(I(exponent + I(126)) * I(1 << 23)).view(np.float32)
    return p * half * F(2.0)


@njit(fastmath=_EXACT)
def logarithm(x: np.float32) -> np.float32:
    """log(x) for normal positive x; NaN for NaN. Callers keep smaller x away."""
    bits = F(x).view(np.int32)
    exponent = F(I((I(bits >> I(23))) - I(126)))
    mantissa = I((bits & I(0x007FFFFF)) | I(0x3F000000)).view(np.float32)  # in [0.5, 1)
    low = mantissa < F(0.707106781186547524)
    e = exponent - F(1.0) if low else exponent
    r = mantissa + mantissa - F(1.0) if low else mantissa - F(1.0)
    z = r * r
    p = F(7.0376836292e-2)
    p = p * r + F(-1.1514610310e-1)
    p = p * r + F(1.1676998740e-1)
    p = p * r + F(-1.2420140846e-1)
    p = p * r + F(1.4249322787e-1)
    p = p * r + F(-1.6668057665e-1)
    p = p * r + F(2.0000714765e-1)
    p = p * r + F(-2.4999993993e-1)
    p = p * r + F(3.3333331174e-1)
    y = r * z * p + e * F(-2.12194440e-4) - F(0.5) * z
    result = r + y + e * F(0.693359375)
    return result if x == x else x


@njit(fastmath=_EXACT)
def hyperbolic_tangent(x: np.float32) -> np.float32:
    """tanh(x); NaN for NaN. A polynomial near 0, where the difference from 1 would lose digits."""
    z = x * x
    p = F(-5.70498872745e-3)
    p = p * z + F(2.06390887954e-2)
    p = p * z + F(-5.37397155531e-2)
    p = p * z + F(1.33314422036e-1)
    p = p * z + F(-3.33332819422e-1)
    far = F(1.0) - F(2.0) / (F(1.0) + exponential(x + x))
    return p * z * x + x if abs(x) < F(0.625) else far
