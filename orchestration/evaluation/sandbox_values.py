"""Values and calls between two processes, one of which runs code that nobody has read.

`Peer` is one end. A value of Python's own types crosses as a copy; anything else stays where it was made and crosses as
a `Remote`, which forwards what is done with it. The judging end (``guarded``) lets the other do little with what it
hands out: call it, iterate over it, and use the public attributes of objects whose class the tests define.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, CoroutineType, ModuleType
from typing import Any

from orchestration.evaluation.sandbox_remote import COMPARISONS, OPERATIONS, Remote, plain_base

FRAME_BYTES = 16 << 20
CONTAINERS = (list, dict, set, bytearray)
# What is built again from parts: type name -> (module, parts of a value).
REBUILT: dict[str, tuple[str, Callable[[Any], tuple[Any, ...]]]] = {
    "Fraction": ("fractions", lambda x: (x.numerator, x.denominator)),
    "Decimal": ("decimal", lambda x: (str(x),)),
    "deque": ("collections", lambda x: (list(x), x.maxlen)),
    "Counter": ("collections", lambda x: (dict(x),)),
    "OrderedDict": ("collections", lambda x: (list(x.items()),)),
    "date": ("datetime", lambda x: (x.year, x.month, x.day)),
    "datetime": (
        "datetime",
        lambda x: (x.year, x.month, x.day, x.hour, x.minute, x.second, x.microsecond),
    ),
    "time": ("datetime", lambda x: (x.hour, x.minute, x.second, x.microsecond)),
    "timedelta": ("datetime", lambda x: (x.days, x.seconds, x.microseconds)),
}
SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
# Of an object whose class the tests define, the program may use these.
OF_OBJECTS = {"iter", "next", "len", "str", "repr", "hash", "bool", "eq", *COMPARISONS, "getitem", "setitem", "call"}
OF_OBJECTS |= {"copy", "deepcopy"}
# Of one whose class extends a plain type, these.
OF_VALUES = {"plain", "iter", "len", "str", "repr", "hash", "bool", "getitem", "getattr"}


NONSENSE = "the program sent what is no value"


class ProgramEnded(BaseException):
    """The other end is gone or (with a text) sends nonsense.

    No ``except Exception`` of a test may take it for an error that it expects.
    """


class Channel:
    """Whole messages over a pair of pipes: eight bytes of length, then JSON."""

    def __init__(self, readable: int, writable: int) -> None:
        self._readable, self._writable = readable, writable

    def send(self, message: Any) -> None:
        """Write one message; ValueError above ``FRAME_BYTES``, ProgramEnded where nobody reads."""
        body = json.dumps(message).encode()
        if len(body) > FRAME_BYTES:
            raise ValueError(f"a value takes {len(body)} bytes, more than {FRAME_BYTES}")
        view = memoryview(len(body).to_bytes(8, "little") + body)
        try:
            while view:
                view = view[os.write(self._writable, view) :]
        except BrokenPipeError:
            raise ProgramEnded from None

    def receive(self) -> Any:
        """Read one message; ProgramEnded where there is none or it is none of ours."""
        length = int.from_bytes(self._exactly(8), "little")
        if length > FRAME_BYTES:
            raise ProgramEnded("the program sent too much")
        try:
            return json.loads(self._exactly(length))
        except (ValueError, RecursionError):
            raise ProgramEnded(NONSENSE) from None

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = os.read(self._readable, min(count - len(parts), 1 << 20))
            if not part:
                raise ProgramEnded
            parts += part
        return bytes(parts)


class Peer:
    """One end of a conversation in which each side may ask while it is being asked."""

    def __init__(self, channel: Channel, *, guarded: bool) -> None:
        """``guarded``: the other end is not trusted. ``services``: further operations that it may ask for.

        ``not_asked``: attributes that the other end's objects are not asked for. ``printed``: what was printed since it
        was last asked for; ``written`` takes what the other end printed.
        """
        self._channel, self._guarded = channel, guarded
        self._handed_out: dict[int, Any] = {}
        self._exceptions: dict[str, type[BaseException]] = {}
        self.services: dict[str, Callable[..., Any]] = {}
        self.not_asked: set[str] = set()
        self.printed: Callable[[], str] = str
        self.written: Callable[[str], Any] = lambda _text: None

    def ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """The other end's answer; raises what it raised. Containers it changed among the arguments change here too."""
        self._channel.send(["ask", operation, [self.pack(each) for each in args], self.pack(kwargs)])
        while True:
            match self._channel.receive():
                case ["ask", str(asked), list(packed), named]:
                    self._channel.send(self._answer(asked, packed, named))
                case ["answer", str(kind), value, list(changed), str(text)]:
                    self.written(text)
                    self._change({**dict(enumerate(args)), **kwargs}, changed)
                    answer = self.unpack(value)
                    if kind != "error":
                        return answer
                    if not isinstance(answer, BaseException):
                        raise ProgramEnded(NONSENSE)
                    raise answer
                case _:
                    raise ProgramEnded(NONSENSE)

    def serve(self) -> None:
        """Answer until the other end is gone."""
        while True:
            match self._channel.receive():
                case ["ask", str(asked), list(packed), named]:
                    self._channel.send(self._answer(asked, packed, named))
                case _:
                    raise ProgramEnded(NONSENSE)

    def pack(self, value: Any) -> Any:
        """``value`` as JSON: a copy of what is plain, a name or a number for the rest."""
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return ["int", hex(value)]
        if kind is float:
            return ["float", value.hex()]
        if kind in SEQUENCES.values():
            return [kind.__name__, [self.pack(each) for each in value]]
        if kind is dict:
            return ["dict", [[self.pack(key), self.pack(each)] for key, each in value.items()]]
        if kind in (bytes, bytearray):
            return [kind.__name__, value.hex()]
        if kind is complex:
            return ["complex", [value.real.hex(), value.imag.hex()]]
        if kind is range:
            return ["range", [self.pack(each) for each in (value.start, value.stop, value.step)]]
        if kind is slice:
            return ["slice", [self.pack(each) for each in (value.start, value.stop, value.step)]]
        if kind is Remote and value._peer is self:
            return ["yours", value._number]
        if kind.__name__ in REBUILT and kind.__module__.lstrip("_") == REBUILT[kind.__name__][0].lstrip("_"):
            return [kind.__name__, [self.pack(each) for each in REBUILT[kind.__name__][1](value)]]
        if isinstance(value, BaseException):
            return ["exception", self._described(value)]
        name = getattr(value, "__name__", None)
        if isinstance(value, (type, BuiltinFunctionType)) and getattr(builtins, str(name), None) is value:
            return ["builtin", name]
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exceptions", _lineage(value)]
        if isinstance(value, ModuleType) and _of_python(value.__name__):
            return ["module", value.__name__]
        if kind.__module__ == "numpy" and hasattr(value, "tolist") and value.dtype.kind in "biufcSU":
            return ["array", [value.dtype.str, list(value.shape), self.pack(value.tolist())]]
        self._handed_out[id(value)] = value
        if isinstance(value, CoroutineType):
            return ["coroutine", id(value)]
        return ["mine", id(value), plain_base(kind) is not None]

    def unpack(self, packed: Any) -> Any:
        """What `pack` packed at the other end; ProgramEnded for anything else."""
        try:
            return self._unpack(packed)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, ImportError):
            raise ProgramEnded(NONSENSE) from None

    def _unpack(self, packed: Any) -> Any:
        if packed is None or isinstance(packed, (bool, str)):
            return packed
        kind, value = packed[0], packed[1]
        if kind == "int":
            return int(value, 16)
        if kind == "float":
            return float.fromhex(value)
        if kind in SEQUENCES:
            return SEQUENCES[kind]([self._unpack(each) for each in value])
        if kind == "dict":
            return {self._unpack(key): self._unpack(each) for key, each in value}
        if kind in ("bytes", "bytearray"):
            return (bytes if kind == "bytes" else bytearray).fromhex(value)
        if kind == "complex":
            return complex(float.fromhex(value[0]), float.fromhex(value[1]))
        if kind in ("range", "slice"):
            return (range if kind == "range" else slice)(*[self._unpack(each) for each in value])
        if kind in REBUILT:
            return getattr(importlib.import_module(REBUILT[kind][0]), kind)(*[self._unpack(each) for each in value])
        if kind == "yours":
            return self._handed_out[value]
        if kind == "exception":
            return self._rebuilt(*value)
        if kind == "exceptions":
            return self._exception_class(value)
        if kind == "builtin":
            found = getattr(builtins, value)
            if self._guarded and not isinstance(found, type):
                raise ValueError("only types are taken by name")
            return found
        if kind == "module" and not self._guarded:
            return importlib.import_module(value)
        if kind == "array":
            numpy = importlib.import_module("numpy")
            dtype, shape, values = value
            array = numpy.array(self._unpack(values), dtype=numpy.dtype(str(dtype))).reshape(tuple(map(int, shape)))
            return array if shape else array[()]
        if kind == "coroutine":
            return _awaited(self, int(value))
        if kind != "mine":
            raise ValueError(f"no such kind of value: {kind}")
        return Remote(self, int(value), bool(packed[2]))

    def _answer(self, asked: str, packed: list[Any], named: Any) -> list[Any]:
        """Do what the other end asks for, and say what came of it."""
        changed: list[Any] = []
        try:
            args, kwargs = [self.unpack(each) for each in packed], self.unpack(named)
            given = {**dict(enumerate(args)), **kwargs}
            before = {place: self.pack(each) for place, each in given.items() if type(each) in CONTAINERS}
            result = self.pack(self._allowed(asked, args, packed)(*args, **kwargs))
            changed = [[at, now] for at, each in before.items() if (now := self.pack(given[at])) != each]
            return ["answer", "value", result, changed, self.printed()]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it belongs to the other end, which raises it
            return ["answer", "error", self.pack(error), changed, self.printed()]

    def _allowed(self, asked: str, args: list[Any], packed: list[Any]) -> Callable[..., Any]:
        if asked in self.services:
            return self.services[asked]
        operation = OPERATIONS[asked]
        # A value that the program brings along, such as a text with a method, is nothing that was handed out to it.
        handed_out = isinstance(packed[0], list) and packed[0][0] == "yours"
        if self._guarded and not (handed_out and _harmless(asked, *args[:2])):
            raise TypeError(f"{asked} of {type(args[0]).__name__} is not for the program")
        return operation

    def _change(self, given: dict[Any, Any], changed: list[Any]) -> None:
        """Make containers that were sent what the other end made of them."""
        try:
            for place, after in changed:
                target, value = given[place], self.unpack(after)
                if type(target) not in CONTAINERS or type(value) is not type(target):
                    raise ProgramEnded(NONSENSE)
                if isinstance(target, (list, bytearray)):
                    target[:] = value
                else:
                    target.clear()
                    target.update(value)
        except (ValueError, TypeError, LookupError):
            raise ProgramEnded(NONSENSE) from None

    def _described(self, error: BaseException) -> list[Any]:
        """Class names from the error's own up, and its arguments; an own class may make its text as it likes."""
        lineage = _lineage(type(error))
        plain = all(arg is None or type(arg) in (bool, int, float, str, bytes) for arg in error.args)
        args = error.args if plain and len(lineage) == 1 else (str(error),)
        return [lineage, self.pack(tuple(args))]

    def _rebuilt(self, lineage: list[str], args: Any) -> BaseException:
        kind = self._exception_class(lineage)
        try:
            return kind(*self._unpack(args))
        except TypeError:  # some, such as UnicodeDecodeError, want arguments of their own
            error = kind.__new__(kind)
            error.args = self._unpack(args)
            return error

    def _exception_class(self, lineage: list[str]) -> type[BaseException]:
        """Python's own class, or a stand-in with the same name for one that the other end defines."""
        name, *above = lineage
        if not above:
            found = getattr(builtins, name)
            if not (isinstance(found, type) and issubclass(found, BaseException)):
                raise ValueError("not an exception")
            return found
        if name not in self._exceptions:
            self._exceptions[name] = type(str(name), (self._exception_class(above),), {})
        return self._exceptions[name]


def _lineage(kind: type[BaseException]) -> list[str]:
    """Names from ``kind`` up to the first class that is Python's own."""
    names = []
    for each in kind.__mro__:
        names.append(each.__name__)
        if getattr(builtins, each.__name__, None) is each:
            break
    return names


def _harmless(asked: str, target: Any, name: Any = None) -> bool:
    """Whether the program may do this with what the tests handed out: nothing that leads to the tests' own workings.

    A generator's frame, a function's globals or a module would: so attributes are given only of objects whose class
    the tests define, or that extend a plain type, and only public ones.
    """
    ours = type(target).__module__ == "__main__" and not isinstance(target, type)
    valued = plain_base(type(target)) is not None
    if asked in ("getattr", "setattr"):
        # `format` reads any attribute of what it is given.
        public = type(name) is str and not name.startswith("_") and name not in ("format", "format_map")
        return public and (ours or (valued and asked == "getattr"))
    if asked == "call" or (asked in ("iter", "next") and hasattr(target, "__iter__")):
        return True
    return (ours and asked in OF_OBJECTS) or (valued and asked in OF_VALUES)


def _of_python(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


async def _awaited(peer: Peer, number: int) -> Any:
    """A coroutine of the other process, run there to its end once awaited here."""
    return peer.ask("await", Remote(peer, number, False))
