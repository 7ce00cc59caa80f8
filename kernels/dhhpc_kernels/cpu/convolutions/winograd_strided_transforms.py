"""The transforms of Winograd's algorithm at stride 2, between arrays of tiles.

Pixels, counted with a padding of one, are parted into four phases by whether their row and column are even.
Of a 3x3 kernel, an even row or column meets two taps and an odd one the middle tap. The phases follow one
another so that those with two taps of a row are neighbours, and those with two of a column as well.
"""

from collections.abc import Callable, Iterator, Sequence

from dhhpc_kernels.compilation import compile_part
from dhhpc_kernels.cpu.convolutions.winograd_matrices import strided_input, strided_kernel, strided_output
from dhhpc_kernels.cpu.convolutions.winograd_transforms import (
    Floats,
    emit_gather,
    emit_output,
    emit_spread,
    emitter,
    square,
)
from dhhpc_kernels.cpu.microkernel import LANES, ROWS
from dhhpc_kernels.cpu.vectors import Value, Values, Vectors

TILE = 4  # rows and columns of results
SIDE = TILE + 1  # of a transformed tile, the last one for two taps only
ELEMENTS = SIDE * SIDE
PRODUCTS = (SIDE + TILE) ** 2  # of a tile's elements, for all phases
PHASES = 4
_ODD = ((0, 1), (0, 0), (1, 0), (1, 1))  # whether rows, columns of each phase are


@compile_part
def phases_of(element: int) -> tuple[int, int]:
    """The first phase with products for an element of a tile, and the one behind the last."""
    row, column = divmod(element, SIDE)
    return (1 if column == TILE else 0), (2 if row == TILE else 3 if column == TILE else 4)


def _store(target: Floats, pitch: Value, rows: Iterator[list[Value]], *parts: tuple[int, Value]) -> None:
    """Each value of a row at the place of its element."""
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            target.store(value, (i * SIDE + j, pitch), *parts)


def _emit_phase(odd_row: int, odd_column: int) -> Callable[..., None]:
    def body(v: Vectors, source: Floats, target: Floats, row: Value, phase: Value, pitch: Value) -> None:
        def pixel(i: int, j: int) -> Value:
            column = 2 * j + odd_column
            return source.load((2 * i + odd_row, row), (column % (2 * TILE), phase), column // (2 * TILE))

        pixels = [[pixel(i, j) for j in range(SIDE - odd_column)] for i in range(SIDE - odd_row)]
        _store(target, pitch, square(v, strided_input, pixels))

    return emitter(body)


def _emit_pixels(rows: int) -> Callable[..., None]:
    """From two phases, odd columns and even ones, to rows of pixels."""

    def body(v: Vectors, source: Floats, target: Floats, pitch: Value, line: Value, phase: Value) -> None:
        odd = [[source.load((i * SIDE + j, pitch)) for j in range(TILE)] for i in range(rows)]
        even = [[source.load((i * SIDE + j, pitch), (1, phase)) for j in range(SIDE)] for i in range(rows)]
        both = zip(square(v, strided_output, odd), square(v, strided_output, even), strict=True)
        for i, pair in enumerate(both):
            pixels = [value for values in zip(*pair, strict=True) for value in values]
            for j, value in enumerate(v.zip(pixels)):
                target.store(value, (i, line), LANES * j)

    return emitter(body)


def _kernels(v: Vectors, taps: Sequence[Values], target: Floats, pitch: Value, phase: Value) -> None:
    for number, odd in enumerate(_ODD):
        rows, columns = (slice(1, 2) if each else slice(0, 3, 2) for each in odd)
        phase_taps = [row[columns] for row in taps[rows]]
        _store(target, pitch, square(v, strided_kernel, phase_taps), (number, phase))


# Called as the transforms of `winograd_transforms`.

# A phase of a tile's pixels, pitches row a, phase of a split row b, result c: pixel (i, j) of lane's tile is
# source[start + i*a + (j % 8)*b + j // 8 + lane]; element n goes to target[place + n*c + lane].
transform_phase_0, transform_phase_1, transform_phase_2, transform_phase_3 = (
    _emit_phase(*odd) for odd in _ODD
)
# The same of a tile of gradients of results, for all phases of the pixels.
transform_results = emit_spread(TILE, SIDE, strided_input)

# transform_output, pitches element a, row b: element n of lane's tile is source[start + n*a + lane]; its
# result (i, j) goes to target[place + i*b + 4*lane + j].
transform_output = emit_output(SIDE, strided_output)

# Pixels of odd or of even rows, pitches element a, row b, phase c: element n of a phase with odd columns is
# source[start + n*a + lane], that of the one with even columns c further; pixel j of row i goes to
# target[place + i*b + 8*lane + j]. The first row and column are odd, for the padding.
transform_odd_rows, transform_even_rows = _emit_pixels(TILE), _emit_pixels(SIDE)

# Successive rows as lanes, of as many channels as fill a vector with ROWS rows of each: element n of a phase
# goes to target[place + n*a + phase*b + lane].
transform_kernels = emit_gather(ROWS, _kernels)
