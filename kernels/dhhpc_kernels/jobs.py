"""Kernels and their arguments as numbers in an array, which compiled code runs without the interpreter.

Whoever runs a Python function needs the interpreter's lock; a thread that finds it taken falls asleep, for
longer than many a kernel takes. So the caller writes a kernel's address and its arguments to a desk, an array
that another thread looks at in compiled code, and that thread runs the kernel from there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dhhpc_kernels.cache_lines import aligned_zeros
from dhhpc_kernels.compilation import compile_function
from dhhpc_kernels.spinning import add_one, look_at, spin

# Numbers (int64) on a desk, by the cache line.
RUNG, HEARD, ENDED, AWAITED, FAILED, JOB = 0, 8, 16, 24, 25, 32
JOB_SIZE = 480  # numbers; of a job: the function that runs it, its kernel, then the arguments
_KERNEL, _ARGUMENTS = 1, 2

# What `serve` returns for.
NOTHING_CAME, NO_KERNEL, IS_AWAITED = 0, 1, 2

_NUMBERS = types.Array(types.int64, 1, "C")
_BYTES = ir.IntType(8).as_pointer()
_NUMBER = ir.IntType(64)
_STATUS = ir.IntType(32)


def new_desk() -> np.ndarray:
    """Where one thread leaves another jobs."""
    return aligned_zeros(JOB + JOB_SIZE)


def _place(context: Any, builder: ir.IRBuilder, kind: Any, desk: Any, index: int) -> Any:
    data = context.make_array(kind)(context, builder, desk).data
    return builder.gep(data, [ir.Constant(_NUMBER, index)])


def _borrowed(context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> Any:
    """The value without references to Python's objects, which the caller keeps until the job has ended."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        items: Any = kind
        for i, item in enumerate(items):
            own = _borrowed(context, builder, item, builder.extract_value(value, i))
            value = builder.insert_value(value, own, i)
        return value
    if isinstance(kind, (types.Number, types.Boolean, types.NoneType)):
        return value
    raise TypeError(f"another thread cannot be handed a {kind}")


def _run_function(context: Any, module: ir.Module, kind: Any, stored: Any) -> Any:
    """A function of where a job's kernel is written, which runs it; it returns 0 unless that failed."""
    function = ir.Function(module, ir.FunctionType(_STATUS, [_BYTES]), module.get_unique_name("run_job"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    numbers = builder.bitcast(function.args[0], _NUMBER.as_pointer())
    call = builder.load(builder.bitcast(builder.gep(numbers, [ir.Constant(_NUMBER, 1)]), stored.as_pointer()))
    kernel = context.call_conv.get_function_type(types.none, tuple(kind)).as_pointer()
    address = builder.inttoptr(builder.load(numbers), kernel)
    arguments = [builder.extract_value(call, i) for i in range(len(kind))]
    status, _ = context.call_conv.call_function(builder, address, types.none, tuple(kind), arguments)
    builder.ret(builder.zext(status.is_error, _STATUS))
    return function


def _write(typing_context: Any, place: Any, kernel: Any, call: Any) -> tuple[Any, Any]:
    """Write a job; how many numbers it takes."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        value = _borrowed(context, builder, call, arguments[2])
        size = _ARGUMENTS + -(-context.get_abi_sizeof(value.type) // 8)
        if size > JOB_SIZE:
            raise TypeError(f"too many arguments for another thread: {call}")
        function = _run_function(context, builder.module, call, value.type)
        address = builder.ptrtoint(function, _NUMBER)
        builder.store(address, _place(context, builder, place, arguments[0], 0))
        builder.store(arguments[1], _place(context, builder, place, arguments[0], _KERNEL))
        where = _place(context, builder, place, arguments[0], _ARGUMENTS)
        builder.store(value, builder.bitcast(where, value.type.as_pointer()), align=8)
        return ir.Constant(_NUMBER, size)

    return types.int64(_NUMBERS, types.int64, call), generate


def _run(typing_context: Any, address: Any) -> tuple[Any, Any]:
    """Run the job that is written at an address; whether it failed."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        numbers = builder.inttoptr(arguments[0], _NUMBER.as_pointer())
        job = builder.load(numbers)
        function = builder.inttoptr(job, ir.FunctionType(_STATUS, [_BYTES]).as_pointer())
        place = builder.bitcast(builder.gep(numbers, [ir.Constant(_NUMBER, _KERNEL)]), _BYTES)
        return builder.icmp_signed("!=", builder.call(function, [place]), ir.Constant(_STATUS, 0))

    return types.boolean(types.int64), generate


_write_job: Callable[..., int] = intrinsic(_write)
run_job: Callable[..., bool] = intrinsic(_run)


@compile_function
def write_job(place: np.ndarray, kernel: int, call: tuple[Any, ...]) -> int:
    """Write the kernel at an address with the arguments of a call, as many numbers as returned.

    What the arguments point to must be there when the job runs. kernel: must take such arguments, for which
    named tuples are as good as others.
    """
    return _write_job(place, kernel, call)


@compile_function
def run_written(place: np.ndarray) -> bool:
    """Run a job on this thread; whether it failed."""
    return run_job(np.int64(place.ctypes.data))


@compile_function
def serve(desk: np.ndarray, looks: int) -> int:
    """Run jobs from the desk until none has come for so many looks, or Python is needed: says which."""
    job = np.int64(desk[JOB:].ctypes.data)
    while True:
        if not spin(desk[RUNG:], desk[HEARD], looks):
            return NOTHING_CAME
        desk[HEARD] += 1
        if desk[JOB] == 0:
            return NO_KERNEL
        if run_job(job):
            desk[FAILED] = 1
        add_one(desk[ENDED:])
        if look_at(desk[AWAITED:]) != 0:
            return IS_AWAITED


@compile_function
def ring(desk: np.ndarray) -> None:
    """Have the job on the desk done by who serves it."""
    add_one(desk[RUNG:])


@compile_function
def call_back(desk: np.ndarray) -> None:
    """Call who serves this desk back to Python."""
    desk[JOB] = 0
    add_one(desk[RUNG:])


@compile_function
def end(desk: np.ndarray) -> bool:
    """A job that `serve` left to Python has ended; whether that is awaited."""
    add_one(desk[ENDED:])
    return look_at(desk[AWAITED:]) != 0


@compile_function
def await_end(desk: np.ndarray, jobs: int) -> bool:
    """Ask to be told when so many jobs have ended; whether they have, so that nobody need tell."""
    add_one(desk[AWAITED:])
    return look_at(desk[ENDED:]) == jobs
