"""How a Winograd convolution walks over its arrays, and how large its scratch arrays are."""

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_part
from dhhpc_kernels.cpu.convolutions.geometry import Pair
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, LINE, ROWS, VECTORS
from dhhpc_kernels.parallel import threads

BLOCK_FLOATS = (
    1024 * 1024
)  # of a block's transformed arrays: all threads' ought to stay in the last-level cache
_LEAST_TILES, _MOST_TILES = 4 * COLUMNS, 384

PATCH_PITCH = -(-6 // LANES) * LANES  # of the rows of the largest tile's input, in whole vectors
PATCH_FLOATS = 6 * PATCH_PITCH * LANES  # of a vector of such inputs


class Plan(NamedTuple):
    """How a Winograd convolution walks over its arrays. Tile rows are numbered over all images of a batch."""

    tile: int  # rows and columns of results, 2 or 4
    elements: int  # (tile + 2)^2 of a transformed tile
    source_channels: int
    target_channels: int
    padding_rows: int
    padding_columns: int
    tile_rows: int  # of an image
    tile_columns: int
    block_rows: int  # tile rows of a block
    tiles: int  # of a block, in whole vectors
    pitch: int  # floats from one channel's tiles to the next's
    depth: int  # source channels whose products are summed at once
    block_pitch: int  # floats from one register block's weights to the next block's
    kernel_pitch: int  # floats from one element's weights to the next element's
    source_pitch: int  # floats from one element's source channels to the next element's
    product_pitch: int  # floats from one element's products to the next element's
    phase: int  # floats from one phase of a split row to the next
    line: int  # floats of a row of pixels, padding included
    rows: int  # floats of a line and of a block's rows split into phases, or of two vectors of tiles


def aligned(size: int) -> int:
    """At least size, in whole cache lines: vectors that cross them cost twice."""
    return -(-size // LINE) * LINE


def spread(size: int) -> int:
    """At least size, in an odd number of cache lines: multiples of it then fall into different cache sets."""
    lines = -(-size // LINE)
    return (lines + 1 - lines % 2) * LINE


def tiles_of_block(floats: int, elements: int, channels: Pair) -> int:
    """Tiles of a block whose transformed sources and targets have about so many floats."""
    return min(max(floats // (elements * sum(channels)), _LEAST_TILES), _MOST_TILES)


def make_plan(
    tile: int,
    batch: int,
    channels: Pair,
    out_size: Pair,
    padding: Pair,
    most_tiles: int,
    depth: int | None = None,
    taking_turns: bool = True,
) -> Plan:
    """The plan of a batch of images, with blocks of at most about most_tiles tiles.

    channels: of the source and of the target. depth: source channels at a time where the transformed weights
    are not kept, a multiple of LANES; then channels are the lanes of the products, otherwise tiles are.
    taking_turns: whether a thread takes a block by itself.
    """
    source_channels, target_channels = channels
    tile_rows, tile_columns = (-(-size // tile) for size in out_size)
    all_rows = batch * tile_rows
    most_rows = min(max(1, most_tiles // tile_columns), all_rows)
    if depth is None:

        def columns(rows: int) -> tuple[float, int]:
            """Of whole register blocks; with half a block's, for which other threads wait at the end."""
            blocks, rest = divmod(all_rows, rows)
            block, last = (-(-count * tile_columns // COLUMNS) * COLUMNS for count in (rows, rest))
            return blocks * block + last + (block / 2 if taking_turns else 0), -rows

        block_rows = min(range(max(1, most_rows // 2), most_rows + 1), key=columns)
    else:
        blocks = -(-all_rows // most_rows)
        block_rows = -(-all_rows // blocks)
    block_tiles = block_rows * tile_columns
    pitch = spread(-(-block_tiles // COLUMNS) * COLUMNS + LANES)
    phase = (-(-(tile_columns + 1) // LANES) + 1) * LANES
    line = aligned(phase * tile + 2 * max(padding))
    tiles = -(-block_tiles // LANES) * LANES
    if depth is None:
        depth, held = source_channels, source_channels
        block_pitch = -(-source_channels * ROWS // LANES) * LANES
        kernel_pitch = spread(register_blocks(target_channels) * block_pitch)
    else:
        depth, held = min(depth, -(-source_channels // LANES) * LANES), LANES
        block_pitch = depth * COLUMNS
        kernel_pitch = spread(block_pitch)
    return Plan(
        tile,
        (tile + 2) ** 2,
        *channels,
        *padding,
        tile_rows,
        tile_columns,
        block_rows,
        tiles,
        pitch,
        depth,
        block_pitch,
        kernel_pitch,
        spread(held * pitch),
        spread(tiles * COLUMNS),
        phase,
        line,
        max(line + aligned((block_rows * tile + 2) * tile * phase), 2 * PATCH_FLOATS),
    )


def register_blocks(channels: int) -> int:
    return -(-channels // ROWS)


def target_parts(plan: Plan, batch: int, channels: int) -> int:
    """Into how many parts so many target channels are divided, to give every thread work."""
    blocks = -(-batch * plan.tile_rows // plan.block_rows)
    all_blocks = register_blocks(channels)
    wanted = min(all_blocks, -(-threads() // blocks))
    return -(-all_blocks // -(-all_blocks // wanted))


def target_pitch(plan: Plan, blocks: int) -> int:
    """Floats from one element's target channels, so many register blocks of them, to the next element's."""
    return spread(blocks * ROWS * plan.pitch)


def offsets(plan: Plan) -> np.ndarray:
    """Where the channels of a transformed source begin, with some to spare for whole register blocks."""
    places = np.arange(plan.source_channels + VECTORS, dtype=np.int64) * plan.pitch
    places[plan.source_channels :] = 0
    return places


def counts(depth: int) -> tuple[np.ndarray, np.ndarray]:
    """How multiply_columns steps down blocks of ROWS and of COLUMNS."""
    steps = np.arange(depth, dtype=np.int64)
    return steps * ROWS, steps * COLUMNS


@compile_part
def lane_share(count: int, part: int, parts: int) -> tuple[int, int]:
    """One of the ranges of whole vectors, but for the last, that make up 0 to count: its first and last."""
    vectors = -(-count // LANES)
    return min(vectors * part // parts * LANES, count), min(vectors * (part + 1) // parts * LANES, count)
