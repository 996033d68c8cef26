"""An interpreter for the pickles of `torch.save` that calls nothing; no torch, no pickle.

A pickle is a small program that may call any function. Here a few dozen of its opcodes are known:
tensors become views of storages somewhere in the file, objects of PyTorch's and MONAI's classes
become empty shells, and all else is refused.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from typing import IO, Any, NamedTuple

ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1,
    "Byte": 1, "Bool": 1,
}  # fmt: skip

MAX_OPCODES = 200_000
MAX_NUMBER = 1 << 48
MAX_NAME = 512
MAX_SHOWN = 80
MAX_DEPTH = 100
MAX_SIZE = 5_000_000
_EMPTY = (1, 1)

# Called by honest files; what each gives is made here.
_DICTIONARIES = {"collections OrderedDict"}
_SEQUENCES = {"torch Size", "builtins set", "__builtin__ set"}
_VALUES = {
    "torch device", "numpy dtype", "numpy.core.multiarray scalar", "numpy._core.multiarray scalar",
    "_codecs encode",
}  # fmt: skip
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_KNOWN = _DICTIONARIES | _SEQUENCES | _VALUES | {_TENSOR, _PARAMETER}
# Classes whose objects become shells: a name like a class, in a place where layers live.
_SHELL = re.compile(
    r"((torch\.(nn|optim|distributed)|monai\.networks)(\.\w+)*|__main__|__mp_main__|argparse)"
    r" _?[A-Z]\w*"
)
_STORAGE = re.compile(rf"torch ({'|'.join(ITEM_BYTES)})Storage")


class RefusedError(Exception):
    """The file is not what an honest `torch.save` of weights would write."""


class Global(NamedTuple):
    """A name that the pickle refers to; never looked up."""

    name: str


class Storage(NamedTuple):
    """Numbers in a row somewhere in the file."""

    kind: str
    key: str
    num_items: int


class TensorPlace(NamedTuple):
    """A tensor as a view of a storage; offset and strides count items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Shell:
    """An object of a class that was not made: the class's name, and the attributes set on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: dict[str, Any] = {}


class Interpreter:
    """Reads the opcodes of one pickle; see the module's docstring."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.shells: set[str] = set()
        # Size with all that is in it, and depth, of every container; what `id` names stays alive.
        self._extent: dict[int, tuple[int, int]] = {}
        self._alive: list[Any] = []
        self.storages: dict[str, Storage] = {}

    def run(self, file: IO[bytes]) -> Any:
        """Return what the pickle at the file's position describes."""
        try:
            for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if number > MAX_OPCODES:
                    raise RefusedError(f"more than {MAX_OPCODES} opcodes")
                if opcode.name == "STOP":
                    if len(self.stack) != 1 or self.marks:
                        raise RefusedError("the pickle leaves a stack that is not one object")
                    return self.stack.pop()
                handler = _HANDLERS.get(opcode.name)
                if handler is None:
                    raise RefusedError(f"opcode {opcode.name}, which no saved weights need")
                handler(self, argument)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise RefusedError(f"the pickle is damaged ({type(error).__name__})") from error
        raise RefusedError("the pickle has no end")

    def _put(self, value: Any, *children: Any) -> None:
        self._alive.append(value)
        self._extent[id(value)] = _EMPTY
        if children:
            self._grow(value, children)
        self.stack.append(value)

    def _grow(self, container: Any, children: Any) -> None:
        size, depth = self._extent.get(id(container), (1, 1))
        for child in children:
            child_size, child_depth = self._extent.get(id(child), (1, 0))
            size, depth = size + child_size, max(depth, 1 + child_depth)
        if size > MAX_SIZE or depth > MAX_DEPTH:
            raise RefusedError(f"nested {depth} deep, with {size} parts")
        self._extent[id(container)] = (size, depth)

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))
        if len(self.marks) > MAX_DEPTH:
            raise RefusedError(f"nested more than {MAX_DEPTH} deep")

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) - count < (self.marks[-1] if self.marks else 0):
            raise RefusedError("the pickle takes more than it has")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _tuple(self, items: list[Any]) -> None:
        self._put(tuple(items), *items)

    def _append(self, items: list[Any]) -> None:
        target = expect(self.stack[-1], list)
        target.extend(items)
        self._grow(target, items)

    def _set_items(self, items: list[Any]) -> None:
        target = expect(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[expect(key, (str, int, float, bool, type(None)))] = value
        self._grow(target, items)

    def _memoize(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def _global(self, name: str) -> None:
        if len(name) > MAX_NAME or not (
            name in _KNOWN or _STORAGE.fullmatch(name) or _SHELL.fullmatch(name)
        ):
            raise RefusedError(f"refers to {_short(name)}, which no saved weights need")
        self.stack.append(Global(name))

    def _stack_global(self, _: Any) -> None:
        module, name = self._pop(2)
        self._global(f"{expect(module, str)} {expect(name, str)}")

    def _call(self, _: Any) -> None:
        function, arguments = self._pop(2)
        name, arguments = expect(function, Global).name, expect(arguments, tuple)
        if name == _TENSOR:
            self.stack.append(_view(*arguments[:4]))
        elif name == _PARAMETER:
            self.stack.append(expect(arguments[0], TensorPlace))
        elif name in _DICTIONARIES:
            pairs = [expect(pair, (tuple, list)) for pair in (arguments[0] if arguments else ())]
            self._put({}, *arguments)
            self._set_items([item for pair in pairs for item in pair])
        elif name in _SEQUENCES:
            self._tuple(list(expect(arguments[0], (list, tuple))) if arguments else [])
        elif name in _VALUES:
            self._put(Shell(name), *arguments)
        else:
            self._shell(name)

    def _new(self, _: Any) -> None:
        class_, arguments = self._pop(2)
        expect(arguments, tuple)
        self._shell(expect(class_, Global).name)

    def _shell(self, name: str) -> None:
        if not _SHELL.fullmatch(name):
            raise RefusedError(f"makes an object of '{name}', which no saved weights need")
        self.shells.add(name)
        self._put(Shell(name))

    def _build(self, _: Any) -> None:
        (state,) = self._pop(1)
        target = expect(self.stack[-1], (Shell, dict))
        if isinstance(state, dict):
            names = [expect(key, str) for key in state]
            if any(name.startswith("__") and name.endswith("__") for name in names):
                raise RefusedError("sets an attribute with a special meaning")
            if isinstance(target, Shell):
                target.state.update(state)
        self._grow(target, [state])

    def _persistent(self, _: Any) -> None:
        (reference,) = self._pop(1)
        if expect(reference, tuple)[0] == "module":  # a class beside its source text, in old files
            self.stack.append(expect(reference[1], Global))
            return
        what, class_, key, _, num_items, *view = reference
        kind = _STORAGE.fullmatch(expect(class_, Global).name)
        if what != "storage" or kind is None or any(part is not None for part in view):
            raise RefusedError("refers to something that is not a plain storage")
        if not re.fullmatch(r"[0-9]{1,20}", expect(key, str)):
            raise RefusedError(f"storage key {_short(key)}, expected a number")
        storage = Storage(kind[1], key, _natural(num_items))
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedError(f"storage {key} is described in two ways")
        self.stack.append(storage)


_PUSHED = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING",
)  # fmt: skip
_HANDLERS: dict[str, Callable[[Interpreter, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda *_: None),
    **dict.fromkeys(_PUSHED, lambda self, argument: self.stack.append(argument)),
    "NONE": lambda self, _: self.stack.append(None),
    "NEWTRUE": lambda self, _: self.stack.append(True),
    "NEWFALSE": lambda self, _: self.stack.append(False),
    "MARK": Interpreter._mark,
    "EMPTY_LIST": lambda self, _: self._put([]),
    "EMPTY_DICT": lambda self, _: self._put({}),
    "EMPTY_TUPLE": lambda self, _: self._put(()),
    "TUPLE": lambda self, _: self._tuple(self._since_mark()),
    "TUPLE1": lambda self, _: self._tuple(self._pop(1)),
    "TUPLE2": lambda self, _: self._tuple(self._pop(2)),
    "TUPLE3": lambda self, _: self._tuple(self._pop(3)),
    "APPEND": lambda self, _: self._append(self._pop(1)),
    "APPENDS": lambda self, _: self._append(self._since_mark()),
    "SETITEM": lambda self, _: self._set_items(self._pop(2)),
    "SETITEMS": lambda self, _: self._set_items(self._since_mark()),
    "BINPUT": Interpreter._memoize,
    "LONG_BINPUT": Interpreter._memoize,
    "MEMOIZE": Interpreter._memoize,
    "BINGET": lambda self, place: self.stack.append(self.memo[place]),
    "LONG_BINGET": lambda self, place: self.stack.append(self.memo[place]),
    "GLOBAL": Interpreter._global,
    "STACK_GLOBAL": Interpreter._stack_global,
    "REDUCE": Interpreter._call,
    "NEWOBJ": Interpreter._new,
    "BUILD": Interpreter._build,
    "BINPERSID": Interpreter._persistent,
}


def expect(value: Any, kind: Any) -> Any:
    """Return a value if it is of a kind; else the file is refused."""
    if not isinstance(value, kind):
        raise RefusedError(f"holds a {type(value).__name__} where that makes no sense")
    return value


def _short(text: str) -> str:
    """A text of the file as it may be printed: no control characters, not long."""
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RefusedError(f"{_short(str(value)[:MAX_SHOWN])} where a natural number must stand")
    return value


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> TensorPlace:
    """A tensor that lies inside its storage and is not larger than it."""
    storage, offset = expect(storage, Storage), _natural(offset)
    shape = tuple(_natural(n) for n in expect(shape, tuple))
    strides = tuple(_natural(n) for n in expect(strides, tuple))
    if len(shape) != len(strides) or len(shape) > 8:
        raise RefusedError(f"a tensor of shape {shape} with strides {strides}")
    num_items = math.prod(shape)
    if any(n > MAX_NUMBER for n in (offset, *shape, *strides)):
        raise RefusedError("a tensor with numbers beyond any file")
    reach = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
    if num_items > storage.num_items or (num_items and offset + reach > storage.num_items):
        raise RefusedError(
            f"a tensor of shape {shape} outside its storage of {storage.num_items} numbers"
        )
    return TensorPlace(storage, offset, shape, strides)
