"""Paddle's `.pdparams`, read and written without paddle: a pickle of numpy arrays by name.

Nothing is unpickled. The pickle's instructions are followed by hand, and only those that
build dictionaries of arrays are known; any other name that it asks for refuses the file.
Arrays stay in the file, which is mapped, until their numbers are asked for. bf16 lies
there as uint16. Where protocols 2 and 3 cut an array of more than 4 GB into slices, they
are joined.

Source: paddle.save and paddle.load of Paddle 2.6 (framework/io.py, io_utils.py).
"""

from __future__ import annotations

import json
import math
import mmap
import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vlforge.checkpoints.weights import Lazy, Weights
from vlforge.types import ModelError

NAME_TABLE = "StructuredToParameterName@@"
"""Paddle's own names of parameters; of no use outside of it."""
CUT_ARRAYS = "UnpackBigParamInfor@@"
"""Which arrays are cut into slices, and what shape they had."""
SHORT = 1024
"""Byte strings up to this length are read at once; longer ones stay in the file."""
_DTYPES = {
    "f8": torch.float64, "f4": torch.float32, "f2": torch.float16, "u2": torch.bfloat16,
    "i8": torch.int64, "i4": torch.int32, "i2": torch.int16, "i1": torch.int8,
    "u1": torch.uint8, "b1": torch.bool,
}  # fmt: skip
_BROKEN = (
    OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip
_CODES = {kind: code for code, kind in _DTYPES.items()}
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_TUPLE = ("builtins.tuple", "__builtin__.tuple")
_NO_BYTES = ("builtins.bytes", "__builtin__.bytes")
_KNOWN = {
    *_RECONSTRUCT, *_FROM_BUFFER, *_SCALAR, *_TUPLE, *_NO_BYTES,
    "numpy.ndarray", "numpy.dtype", "_codecs.encode", "collections.OrderedDict",
}  # fmt: skip


def read_pdparams(path: Path) -> dict[str, Lazy]:
    """The tensors of one file, as Paddle lays them out ([inputs, outputs] where linear).

    Raises:
        ModelError: no such file, truncated, no dictionary of arrays, or a pickle that
            asks for anything but arrays.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        state = _Machine(mapped, path).run()
        return dict(_tensors(state, path))
    except FileNotFoundError:
        raise ModelError(f"no weights at {path}; check the path") from None
    except (*_BROKEN, struct.error) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read ({line}); fetch or copy it again") from None


def open_pdparams(folder: Path, stem: str = "model_state") -> dict[str, Lazy]:
    """The tensors of a folder's `model_state.pdparams`, or of its shards.

    Raises:
        ModelError: none there, a shard that is missing, or slices of tensor parallelism.
    """
    index = folder / f"{stem}.pdparams.index.json"
    single = folder / f"{stem}.pdparams"
    if index.is_file():
        return _open_shards(index)
    if single.is_file():
        return read_pdparams(single)
    slices = sorted(folder.glob(f"{stem}.tp*.pdparams"))
    if slices:
        raise ModelError(
            f"{folder} is cut for {len(slices)} tensor-parallel ranks ({slices[0].name}, …); "
            "merge them with PaddleNLP first"
        )
    raise ModelError(f"{folder} holds no {single.name} and no {index.name}")


def _open_shards(index: Path) -> dict[str, Lazy]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index} is no index of shards; copy the file again") from None
    found: dict[str, Lazy] = {}
    for name in files:
        file = index.parent / Path(str(name)).name
        if not file.is_file():
            raise ModelError(
                f"{index.parent} lacks its shard {name} ({len(files)} in all); fetch it"
            )
        found |= read_pdparams(file)
    lost = sorted(set(names) - set(found))
    if lost:
        raise ModelError(f"{index.parent}: no shard holds {lost[0]} ({len(lost)} such weights)")
    return {key: found[key] for key in names}


@dataclass(frozen=True)
class _Name:
    """A function or class that the pickle asks for, one of those known."""

    name: str


@dataclass
class _Type:
    """An array's element type."""

    code: str


@dataclass
class _Array:
    """An array in the file."""

    shape: tuple[int, ...] = ()
    code: str = ""
    is_fortran: bool = False
    data: Any = b""

    def lazy(self, where: str) -> Lazy:
        """It as a tensor that is read when asked for."""
        if self.code not in _DTYPES:
            raise ValueError(f"an array of type {self.code!r}")
        width = int(self.code[1:])
        if len(self.data) != math.prod(self.shape) * width:
            raise ValueError(f"{where.rsplit(':', 1)[-1]} has {len(self.data)} bytes")
        return Lazy(tuple(self.shape), _DTYPES[self.code], self._read, where)

    def _read(self) -> Tensor:
        flat = np.frombuffer(self.data, dtype="<" + self.code).copy()
        array = flat.reshape(self.shape, order="F" if self.is_fortran else "C")
        if self.code == "u2":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)


class _Stream:
    """The mapped file as `pickletools` reads it; long byte strings are views, not copies."""

    def __init__(self, mapped: mmap.mmap):
        self.view = memoryview(mapped)
        self.mapped = mapped
        self.at = 0

    def tell(self) -> int:
        return self.at

    def read(self, size: int) -> Any:
        part = self.view[self.at : self.at + size]
        self.at += len(part)
        return part if len(part) > SHORT else bytes(part)

    def readline(self) -> bytes:
        end = self.mapped.find(b"\n", self.at) + 1
        part = bytes(self.view[self.at : end or len(self.view)])
        self.at += len(part)
        return part


_PUSHED = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_FIXED: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


@dataclass
class _Machine:
    """Follows a pickle's instructions, as far as arrays need them."""

    mapped: mmap.mmap
    path: Path
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        """What the pickle describes."""
        stream: Any = _Stream(self.mapped)
        for opcode, argument, _ in pickletools.genops(stream):
            self._step(opcode.name, argument)
        return self.stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _FIXED:
            self.stack.append(_FIXED[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self._take(_TUPLES[name])))
        elif name == "MEMOIZE" or name in _PUTS:
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            step = getattr(self, f"_do_{name.lower()}", None)
            if step is None:
                raise ModelError(f"{self.path} asks for {name}; {_UNTOUCHED}")
            step(argument)

    def _take(self, count: int) -> list[Any]:
        taken = [self.stack.pop() for _ in range(count)]
        return taken[::-1]

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _do_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _do_pop(self, _: Any) -> None:
        self.stack.pop()

    def _do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _do_append(self, _: Any) -> None:
        value = self.stack.pop()
        self.stack[-1].append(value)

    def _do_appends(self, _: Any) -> None:
        values = self._since_mark()
        self.stack[-1].extend(values)

    def _do_setitem(self, _: Any) -> None:
        key, value = self._take(2)
        self.stack[-1][key] = value

    def _do_setitems(self, _: Any) -> None:
        values = self._since_mark()
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def _do_global(self, argument: str) -> None:
        self.stack.append(self._known(argument.replace(" ", ".")))

    def _do_stack_global(self, _: Any) -> None:
        self.stack.append(self._known(".".join(self._take(2))))

    def _known(self, name: str) -> _Name:
        if name not in _KNOWN:
            raise ModelError(f"{self.path} asks for {name}; {_UNTOUCHED}")
        return _Name(name)

    def _do_reduce(self, _: Any) -> None:
        function, arguments = self._take(2)
        self.stack.append(_called(function.name, arguments))

    def _do_build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Type):
            if state[1] == ">":
                raise ValueError("an array of the other byte order")
        elif isinstance(target, _Array):
            _, target.shape, kind, target.is_fortran, target.data = state
            target.code = kind.code
        else:
            raise TypeError(f"a {type(target).__name__} with a state")


_UNTOUCHED = "nothing of it was run. Take the file from where you trust it"


def _called(name: str, arguments: Any) -> Any:
    """What calling one of the known names gives; no function is called for it."""
    if name in _RECONSTRUCT:
        return _Array()
    if name in _FROM_BUFFER:
        data, kind, shape, order = arguments
        return _Array(tuple(shape), kind.code, order == "F", data)
    if name in _SCALAR:
        kind, data = arguments
        return _Array((), kind.code, False, data)
    if name == "numpy.dtype":
        return _Type(str(arguments[0]).lstrip("<|="))
    if name == "_codecs.encode":
        return arguments[0].encode("latin-1")
    if name in _TUPLE:
        return tuple(arguments[0]) if arguments else ()
    if name in _NO_BYTES and not arguments:
        return b""
    if name == "collections.OrderedDict":
        return dict(*arguments)
    raise TypeError(f"a call of {name}")


def _tensors(state: Any, path: Path) -> Iterator[tuple[str, Lazy]]:
    """Tensors by name; arrays may come with the name that Paddle gave them."""
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds a {type(state).__name__}, not weights by name")
    cut = state.get(CUT_ARRAYS) or {}
    slices = {part for told in cut.values() for part in told["slices"]}
    lazy: dict[str, Lazy] = {}
    for key, value in state.items():
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if isinstance(array, _Array):
            lazy[str(key)] = array.lazy(f"{path}:{key}")
    yield from ((key, value) for key, value in lazy.items() if key not in slices)
    for key, told in cut.items():
        shape = tuple(told["OriginShape"])
        parts = [lazy[part] for part in told["slices"]]
        yield key, Lazy.joined(parts, lambda *flat, to=shape: torch.cat(flat).reshape(to), shape)


def write_pdparams(weights: Weights, path: Path) -> None:
    """Write one file that `paddle.load` reads; one tensor at a time is in memory.

    Raises:
        ModelError: a tensor of a type that Paddle has no room for.
    """
    with path.open("wb") as file:
        file.write(b"\x80\x04}")
        for name, lazy in weights.items():
            if lazy.dtype not in _CODES:
                raise ModelError(f"{lazy.where} is {lazy.dtype}, which .pdparams cannot hold")
            file.write(_text(name))
            _write_array(file, lazy)
            file.write(b"s")
        file.write(_text(NAME_TABLE) + b"}")
        for name in weights:
            file.write(_text(name) + _text(name) + b"s")
        file.write(b"s.")


def _write_array(file: BinaryIO, lazy: Lazy) -> None:
    """Instructions for one array, as numpy writes them."""
    tensor = lazy.read().contiguous()
    code = _CODES[lazy.dtype]
    if code == "u2":
        tensor = tensor.view(torch.int16)
    order = b"|" if code in ("u1", "i1", "b1") else b"<"
    file.write(b"cnumpy.core.multiarray\n_reconstruct\n")
    file.write(b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R")
    shape = b"".join(b"J" + struct.pack("<i", side) for side in lazy.shape)
    file.write(b"(K\x01(" + shape + b"t")
    file.write(b"cnumpy\ndtype\n" + _text(code) + b"\x89\x88\x87R")
    file.write(b"(K\x03" + _text(order.decode()) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    file.write(b"\x89\x8e" + struct.pack("<Q", lazy.nbytes))
    file.write(tensor.numpy().tobytes())
    file.write(b"tb")


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw
