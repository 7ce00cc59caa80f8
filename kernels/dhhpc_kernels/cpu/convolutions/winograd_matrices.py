"""The matrices of Winograd's minimal filtering, applied to the vectors of one row or column.

Each lane of a vector is one tile, so a transform is a few dozen additions and multiplications of whole
vectors. Those for 3x3 kernels at stride 1 are Lavin and Gray's (Fast Algorithms for Convolutional Neural
Networks, 2016): tiles of 2x2 results take 4x4 inputs (points 0, 1, -1), tiles of 4x4 take 6x6 (0, 1, -1, 2,
-2). Those for one or two taps, which a stride of 2 leaves, follow by the same construction from the points 0,
1, -1 and 2; all have the point at infinity beside, where one tap has no product.
"""

from dhhpc_kernels.cpu.vectors import Value, Values, Vectors


def input_2(v: Vectors, d: Values) -> list[Value]:
    """Transposed B of 2x2 tiles."""
    return [v.subtract(d[0], d[2]), v.add(d[1], d[2]), v.subtract(d[2], d[1]), v.subtract(d[1], d[3])]


def input_4(v: Vectors, d: Values) -> list[Value]:
    """Transposed B of 4x4 tiles."""
    outer, inner = v.scale_add(-4, d[2], d[4]), v.scale_add(-4, d[1], d[3])
    even, odd = v.subtract(d[4], d[2]), v.subtract(d[3], d[1])
    return [
        v.scale_add(4, d[0], v.scale_add(-5, d[2], d[4])),
        v.add(outer, inner),
        v.subtract(outer, inner),
        v.scale_add(2, odd, even),
        v.scale_add(-2, odd, even),
        v.scale_add(4, d[1], v.scale_add(-5, d[3], d[5])),
    ]


def output_2(v: Vectors, m: Values) -> list[Value]:
    """Transposed A of 2x2 tiles."""
    return [v.add(v.add(m[0], m[1]), m[2]), v.subtract(v.subtract(m[1], m[2]), m[3])]


def output_4(v: Vectors, m: Values) -> list[Value]:
    """Transposed A of 4x4 tiles."""
    sum_1, difference_1 = v.add(m[1], m[2]), v.subtract(m[1], m[2])
    sum_2, difference_2 = v.add(m[3], m[4]), v.subtract(m[3], m[4])
    return [
        v.add(v.add(m[0], sum_1), sum_2),
        v.scale_add(2, difference_2, difference_1),
        v.scale_add(4, sum_2, sum_1),
        v.add(v.scale_add(8, difference_2, difference_1), m[5]),
    ]


def gradient_2(v: Vectors, y: Values) -> list[Value]:
    """A of 2x2 tiles."""
    return [y[0], v.add(y[0], y[1]), v.subtract(y[0], y[1]), v.scale(-1, y[1])]


def gradient_4(v: Vectors, y: Values) -> list[Value]:
    """A of 4x4 tiles."""
    even_1, odd_1 = v.add(y[0], y[2]), v.add(y[1], y[3])
    even_2, odd_2 = v.scale_add(4, y[2], y[0]), v.scale_add(4, y[3], y[1])
    return [
        y[0],
        v.add(even_1, odd_1),
        v.subtract(even_1, odd_1),
        v.scale_add(2, odd_2, even_2),
        v.scale_add(-2, odd_2, even_2),
        y[3],
    ]


def kernel_2(v: Vectors, g: Values) -> list[Value]:
    """G of 2x2 tiles."""
    even = v.scale(0.5, v.add(g[0], g[2]))
    return [g[0], v.scale_add(0.5, g[1], even), v.scale_add(-0.5, g[1], even), g[2]]


def kernel_4(v: Vectors, g: Values) -> list[Value]:
    """G of 4x4 tiles."""
    even_1 = v.scale(-1 / 6, v.add(g[0], g[2]))
    even_2 = v.scale_add(1 / 24, g[0], v.scale(1 / 6, g[2]))
    return [
        v.scale(1 / 4, g[0]),
        v.scale_add(-1 / 6, g[1], even_1),
        v.scale_add(1 / 6, g[1], even_1),
        v.scale_add(1 / 12, g[1], even_2),
        v.scale_add(-1 / 12, g[1], even_2),
        g[2],
    ]


def kernel_gradient_2(v: Vectors, s: Values) -> list[Value]:
    """Transposed G of 2x2 tiles."""
    even = v.scale(0.5, v.add(s[1], s[2]))
    return [v.add(s[0], even), v.scale(0.5, v.subtract(s[1], s[2])), v.add(even, s[3])]


def kernel_gradient_4(v: Vectors, s: Values) -> list[Value]:
    """Transposed G of 4x4 tiles."""
    sum_1, sum_2 = v.add(s[1], s[2]), v.add(s[3], s[4])
    return [
        v.scale_add(1 / 4, s[0], v.scale_add(-1 / 6, sum_1, v.scale(1 / 24, sum_2))),
        v.scale_add(1 / 6, v.subtract(s[2], s[1]), v.scale(1 / 12, v.subtract(s[3], s[4]))),
        v.add(v.scale(1 / 6, v.subtract(sum_2, sum_1)), s[5]),
    ]


def strided_input(v: Vectors, d: Values) -> list[Value]:
    """Transposed B of 4x4 tiles for two taps, of five pixels; of four pixels, for one tap."""
    even, odd = v.subtract(d[0], d[2]), v.subtract(d[3], d[1])
    transformed = [
        v.scale_add(2, even, odd),
        v.scale_add(-2, d[1], v.subtract(d[3], d[2])),
        v.scale_add(2, d[1], v.scale_add(-3, d[2], d[3])),
        odd,
    ]
    if len(d) == 5:
        transformed.append(v.scale_add(-2, odd, v.subtract(d[4], d[2])))
    return transformed


def strided_output(v: Vectors, m: Values) -> list[Value]:
    """Transposed A of 4x4 tiles for two taps; of four elements, for one tap."""
    sum_1, difference_1 = v.add(m[1], m[2]), v.subtract(m[1], m[2])
    last = v.scale_add(8, m[3], difference_1)
    return [
        v.add(v.add(m[0], sum_1), m[3]),
        v.scale_add(2, m[3], difference_1),
        v.scale_add(4, m[3], sum_1),
        v.add(last, m[4]) if len(m) == 5 else last,
    ]


def strided_kernel(v: Vectors, g: Values) -> list[Value]:
    """G of 4x4 tiles for two taps, or for one."""
    if len(g) == 1:
        return [v.scale(1 / 2, g[0]), v.scale(-1 / 2, g[0]), v.scale(-1 / 6, g[0]), v.scale(1 / 6, g[0])]
    return [
        v.scale(1 / 2, g[0]),
        v.scale(-1 / 2, v.add(g[0], g[1])),
        v.scale(1 / 6, v.subtract(g[1], g[0])),
        v.scale_add(1 / 3, g[1], v.scale(1 / 6, g[0])),
        g[1],
    ]
