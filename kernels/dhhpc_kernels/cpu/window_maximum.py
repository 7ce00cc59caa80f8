"""The largest value of each window of a volume, and where it stood: a vector holds neighbouring windows."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.microkernel import FLOATS, INDICES, LANES, Emitter, index, pointer_at

F = np.float32
Triple = tuple[int, int, int]
_FLOAT = ir.FloatType()
_PLACE = ir.IntType(32)
_VALUES, _PLACES = ir.VectorType(_FLOAT, LANES), ir.VectorType(_PLACE, LANES)
_PLACE_ARRAY = types.Array(types.int32, 1, "C")


def _vector(numbers: list[int]) -> ir.Constant:
    return ir.Constant(_PLACES, numbers)


def _window_maxima(step: int) -> Callable[..., tuple[Any, Any]]:
    """Windows that begin `step` pixels from each other, 1 or 2."""

    def maxima(
        typing_context: Any,
        pixels: Any,
        plane: Any,
        start: Any,
        offsets: Any,
        count: Any,
        largest: Any,
        where: Any,
        place: Any,
    ) -> tuple[Any, Any]:
        """largest[place + i] = the largest pixels[plane + start + i*step + offset_k], where: without plane.

        i below LANES, k below count (at least 1); NaN is the largest; of equal values the first one counts.
        """
        signature = types.void(
            FLOATS,
            types.int64,
            types.int64,
            INDICES,
            types.int64,
            FLOATS,
            _PLACE_ARRAY,
            types.int64,
        )

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            pixels, plane, start, offsets, count, largest, where, place = arguments
            kinds = signature.args
            emit = Emitter(builder)
            offsets = pointer_at(context, builder, kinds[3], offsets, index(0))
            pixels = pointer_at(context, builder, kinds[0], pixels, builder.add(plane, start))

            def places(offset: ir.Value) -> ir.Value:
                first = builder.insert_element(
                    ir.Constant(_PLACES, ir.Undefined),
                    builder.trunc(builder.add(start, offset), _PLACE),
                    ir.Constant(_PLACE, 0),
                )
                same = builder.shuffle_vector(first, first, _vector([0] * LANES))
                return builder.add(same, _vector([lane * step for lane in range(LANES)]))

            def body(k: ir.Value, so_far: list[ir.Value]) -> list[ir.Value]:
                best, at = so_far
                offset = builder.load(builder.gep(offsets, [k]))
                source = builder.gep(pixels, [offset])
                value = emit.load(source)
                if step == 2:
                    after = emit.load(builder.gep(source, [index(LANES)]))
                    value = builder.shuffle_vector(value, after, _vector(list(range(0, 2 * LANES, 2))))
                larger = builder.or_(
                    builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value)
                )
                return [builder.select(larger, value, best), builder.select(larger, places(offset), at)]

            least = ir.Constant(_VALUES, [float("-inf")] * LANES)
            best, at = emit.sums([least, places(builder.load(offsets))], count, 1, body)
            emit.store(best, pointer_at(context, builder, kinds[5], largest, place))
            target = pointer_at(context, builder, kinds[6], where, place)
            builder.store(at, builder.bitcast(target, _PLACES.as_pointer()), align=4)
            return context.get_dummy_value()

        return signature, generate

    return maxima


_maxima_1: Callable[..., None] = intrinsic(_window_maxima(1))
_maxima_2: Callable[..., None] = intrinsic(_window_maxima(2))


@compile_part
def window_extent(number: int, kernel: int, stride: int, padding: int, size: int) -> tuple[int, int]:
    """The real pixels, from the first up to the last excluded, of a window along one axis."""
    start = number * stride - padding
    return max(start, 0), min(start + kernel, size)


@compile_kernel
def maximum_forward(
    x: np.ndarray,
    out: np.ndarray,
    indices: np.ndarray,
    kernel: Triple,
    stride: Triple,
    padding: Triple,
    begin: int,
    end: int,
) -> None:
    """Planes begin to end of out and indices (planes,D,H,W), from x. Every window holds a pixel."""
    _, depth_x, height_x, width_x = x.shape
    depth, height, width = out.shape[1:]
    volume = depth_x * height_x * width_x
    step = stride[2]
    pixels, values, places = x.reshape(-1), out.reshape(-1), indices.reshape(-1)
    # Windows from the first to the last one lie inside of the row with all their columns.
    first = min(width, -(-padding[2] // step))
    last = max(first, min(width, (width_x - kernel[2] + padding[2]) // step + 1))
    offsets = np.empty(kernel[0] * kernel[1] * kernel[2], np.int64)
    best, at = np.empty(LANES, np.float32), np.empty(LANES, np.int32)
    for plane in range(begin, end):
        source = plane * volume
        for row in range(depth * height):
            front, back = window_extent(row // height, kernel[0], stride[0], padding[0], depth_x)
            top, bottom = window_extent(row % height, kernel[1], stride[1], padding[1], height_x)
            count = 0
            for z in range(front, back):
                for y in range(top, bottom):
                    for tap in range(kernel[2]):
                        offsets[count] = (z * height_x + y) * width_x + tap
                        count += 1
            target = (plane * depth * height + row) * width
            # Whole vectors are read, up to here.
            safe = pixels.size - source - offsets[count - 1] - 2 * LANES
            i = 0
            while i < width:
                start = i * step - padding[2]
                if step > 2 or i < first or i >= last or start > safe:
                    left, right = window_extent(i, kernel[2], step, padding[2], width_x)
                    place = offsets[0] + left
                    largest = F(-np.inf)
                    for k in range(0, count, kernel[2]):
                        for pixel in range(offsets[k] + left, offsets[k] + right):
                            value = pixels[source + pixel]
                            if value > largest or value != value:
                                largest, place = value, pixel
                    values[target + i] = largest
                    places[target + i] = place
                    i += 1
                    continue
                whole = i + LANES <= last
                if step == 2 and whole:
                    _maxima_2(pixels, source, start, offsets, count, values, places, target + i)
                elif whole:
                    _maxima_1(pixels, source, start, offsets, count, values, places, target + i)
                elif step == 2:
                    _maxima_2(pixels, source, start, offsets, count, best, at, 0)
                else:
                    _maxima_1(pixels, source, start, offsets, count, best, at, 0)
                if not whole:
                    for lane in range(last - i):
                        values[target + i + lane] = best[lane]
                        places[target + i + lane] = at[lane]
                i = min(last, i + LANES)


@compile_kernel
def maximum_backward(
    grad_out: np.ndarray, indices: np.ndarray, grad_x: np.ndarray, begin: int, end: int
) -> None:
    _, size = grad_out.shape
    for plane in range(begin, end):
        target = grad_x[plane]
        target[:] = F(0)
        for i in range(size):
            target[np.uint32(indices[plane, i])] += grad_out[plane, i]
