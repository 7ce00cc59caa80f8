"""Kernels and their arguments, handed from thread to thread without the interpreter.

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

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.spinning import add_one, look_at, spin

# Numbers (int64) on a desk, by the cache line, for whoever writes one disturbs who looks at another in it.
RUNG, HEARD, ENDED, AWAITED, FAILED, JOB = 0, 8, 16, 24, 25, 32
_KERNEL, _ARGUMENTS, _SIZE = JOB + 1, JOB + 2, 512
_LINE = 64  # bytes

# What `serve` returns for.
NOTHING_CAME, NO_KERNEL, IS_AWAITED = 0, 1, 2

_DESK = types.Array(types.int64, 1, "C")
_BYTES = ir.IntType(8).as_pointer()
_NUMBER = ir.IntType(64)
_STATUS = ir.IntType(32)


def new_desk() -> np.ndarray:
    """Zeros (int64), the first at the beginning of a cache line."""
    numbers = np.zeros(_SIZE + _LINE // 8, np.int64)
    start = -numbers.ctypes.data % _LINE // 8
    return numbers[start : start + _SIZE]


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
    """A function of the kernel's place on a desk that runs it; it returns 0 unless that failed."""
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


def _write(typing_context: Any, desk: Any, kernel: Any, call: Any) -> tuple[Any, Any]:
    """Write a kernel's address and its arguments."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        value = _borrowed(context, builder, call, arguments[2])
        if context.get_abi_sizeof(value.type) > 8 * (_SIZE - _ARGUMENTS):
            raise TypeError(f"too many arguments for another thread: {call}")
        function = _run_function(context, builder.module, call, value.type)
        address = builder.ptrtoint(function, _NUMBER)
        builder.store(address, _place(context, builder, desk, arguments[0], JOB))
        builder.store(arguments[1], _place(context, builder, desk, arguments[0], _KERNEL))
        place = _place(context, builder, desk, arguments[0], _ARGUMENTS)
        builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(_DESK, types.int64, call), generate


def _run(typing_context: Any, desk: Any) -> tuple[Any, Any]:
    """Run what is on the desk; whether it failed."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        job = builder.load(_place(context, builder, desk, arguments[0], JOB))
        function = builder.inttoptr(job, ir.FunctionType(_STATUS, [_BYTES]).as_pointer())
        place = builder.bitcast(_place(context, builder, desk, arguments[0], _KERNEL), _BYTES)
        return builder.icmp_signed("!=", builder.call(function, [place]), ir.Constant(_STATUS, 0))

    return types.boolean(_DESK), generate


_write_job: Callable[..., None] = intrinsic(_write)
_run_job: Callable[..., bool] = intrinsic(_run)


@compile_kernel
def post(desk: np.ndarray, kernel: int, call: tuple[Any, ...]) -> None:
    """Hand the kernel at an address and the arguments of a call to who serves this desk.

    The caller keeps the arguments until the job has ended. kernel: must take such arguments, for which named
    tuples are as good as others.
    """
    _write_job(desk, kernel, call)
    add_one(desk[RUNG:])


@compile_kernel
def serve(desk: np.ndarray, looks: int) -> int:
    """Run jobs from the desk until none has come for so many looks, or Python is needed: says which."""
    while True:
        if not spin(desk[RUNG:], desk[HEARD], looks):
            return NOTHING_CAME
        desk[HEARD] += 1
        if desk[JOB] == 0:
            return NO_KERNEL
        if _run_job(desk):
            desk[FAILED] = 1
        add_one(desk[ENDED:])
        if look_at(desk[AWAITED:]) != 0:
            return IS_AWAITED


@compile_kernel
def ring(desk: np.ndarray) -> None:
    """Call who serves this desk back to Python."""
    desk[JOB] = 0
    add_one(desk[RUNG:])


@compile_kernel
def end(desk: np.ndarray) -> bool:
    """A job that `serve` left to Python has ended; whether that is awaited."""
    add_one(desk[ENDED:])
    return look_at(desk[AWAITED:]) != 0


@compile_kernel
def await_end(desk: np.ndarray, jobs: int) -> bool:
    """Ask to be told when so many jobs have ended; whether they have, so that nobody need tell."""
    add_one(desk[AWAITED:])
    return look_at(desk[ENDED:]) == jobs
