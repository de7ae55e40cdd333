"""An object of the other process, and what may be done with one: see `sandbox_values`.

An object of the program is never asked whether it equals a plain value, nor to compute with one: it would say what the
test wants to hear. ``==`` is False there, and the other operators raise TypeError.
"""

from __future__ import annotations

import copy
import importlib
import operator
from collections.abc import Callable
from typing import Any, Protocol

PLAIN = (int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset)
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift")
COMPARISONS = ("lt", "le", "gt", "ge")
OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, *args, **kwargs: target(*args, **kwargs),
    **{f.__name__: f for f in (getattr, setattr, delattr, iter, next, len, str, repr, hash, bool, int, float, round)},
    **{f.__name__: f for f in (isinstance, issubclass, reversed, complex, copy.copy, copy.deepcopy)},
    "await": lambda target: importlib.import_module("asyncio").run(target),
    "plain": lambda target: plain_copy(target),
    **{name: getattr(operator, name) for name in (*BINARY, *COMPARISONS, "eq", "getitem", "setitem", "delitem")},
    **{name: getattr(operator, name) for name in ("neg", "pos", "abs", "invert", "index")},
}


class Asked(Protocol):
    """The way to the other process: `sandbox_values.Peer`."""

    not_asked: set[str]

    def ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """What came of an operation of ``OPERATIONS`` there."""


def plain_base(kind: type) -> type | None:
    """The plain type that ``kind`` extends, if it does."""
    return next((base for base in kind.__mro__ if base in PLAIN), None)


def plain_copy(value: Any) -> Any:
    base = plain_base(type(value))
    if base is None:
        raise TypeError(f"{type(value).__name__} has no plain value")
    return base(value)


class Remote:
    """An object of the other process. ``plain``: its class extends a plain type, so that a copy can be had."""

    __slots__ = ("_number", "_peer", "_plain")

    def __init__(self, peer: Asked, number: int, plain: bool) -> None:
        for name, value in (("_peer", peer), ("_number", number), ("_plain", plain)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in self._peer.not_asked and not self._plain:
            raise TypeError(f"an object of the program is not asked {name}: it would say what the tests want to hear")
        return self._peer.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._peer.ask("delattr", self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._peer.ask("call", self, *args, **kwargs)

    def __eq__(self, other: object) -> bool:
        mine, its = _value(self), _value(other)
        if type(mine) is Remote and type(its) is Remote:
            return bool(self._peer.ask("eq", self, other))
        return type(mine) is not Remote and type(its) is not Remote and bool(mine == its)

    def __hash__(self) -> int:
        return hash(_value(self)) if self._plain else int(self._peer.ask("hash", self))

    def __contains__(self, item: Any) -> bool:
        return any(each is item or each == item for each in iter(self))

    def __bool__(self) -> bool:
        return bool(self._peer.ask("bool", self))

    def __len__(self) -> int:
        return int(self._peer.ask("len", self))

    def __str__(self) -> str:
        return str(self._peer.ask("str", self))

    def __repr__(self) -> str:
        return str(self._peer.ask("repr", self))

    def __format__(self, how: str) -> str:
        return format(_value(self) if self._plain else str(self), how)

    def __deepcopy__(self, _memo: Any) -> Any:
        return self._peer.ask("deepcopy", self)

    def __copy__(self) -> Any:
        return self._peer.ask("copy", self)

    def __enter__(self) -> Any:
        return self._peer.ask("getattr", self, "__enter__")()

    def __exit__(self, kind: Any, value: Any, _traceback: Any) -> bool:
        return bool(self._peer.ask("getattr", self, "__exit__")(kind, value, None))

    def __mro_entries__(self, _bases: Any) -> Any:
        raise TypeError("tests cannot extend a class of the program, which stays in its own process")

    def __instancecheck__(self, value: Any) -> bool:
        return type(value) is Remote and bool(self._peer.ask("isinstance", value, self))

    def __subclasscheck__(self, kind: Any) -> bool:
        return type(kind) is Remote and bool(self._peer.ask("issubclass", kind, self))


def _value(value: Any) -> Any:
    """A copy of what a plain-valued `Remote` stands for, asked for anew since it may change; anything else as it is."""
    return value._peer.ask("plain", value) if type(value) is Remote and value._plain else value


def _forwarded(name: str) -> Callable[..., Any]:
    return lambda self, *args: self._peer.ask(name, self, *args)


def _operator(name: str, *, swapped: bool = False) -> Callable[[Remote, Any], Any]:
    """Of two objects of the other process: done there. Of copies: done here. Of one of each: refused."""
    work = OPERATIONS[name]

    def method(self: Remote, other: Any) -> Any:
        mine, its = _value(self), _value(other)
        if type(mine) is Remote and type(its) is Remote:
            return self._peer.ask(name, its, mine) if swapped else self._peer.ask(name, mine, its)
        if type(mine) is Remote or type(its) is Remote:
            return NotImplemented
        return work(its, mine) if swapped else work(mine, its)

    return method


for _name in ("iter", "next", "reversed", "getitem", "setitem", "delitem", "neg", "pos", "abs", "invert"):
    setattr(Remote, f"__{_name}__", _forwarded(_name))
for _name in ("int", "float", "complex", "index", "round"):
    setattr(Remote, f"__{_name}__", _forwarded(_name))
for _name in (*BINARY, *COMPARISONS):
    setattr(Remote, f"__{_name.rstrip('_')}__", _operator(_name))
for _name in BINARY:
    setattr(Remote, f"__r{_name.rstrip('_')}__", _operator(_name, swapped=True))
