"""The two processes of one sample: the program, which nobody has read, and the tests, which judge it.

The program's process runs what the model wrote and then answers calls. The tests' process has the tests, asks for the
program's names, and alone knows whether the tests came to their end. Nothing in the program's memory, files or
arguments could tell it what to say, nor is anything it says taken for the verdict.
"""

from __future__ import annotations

import ast
import builtins
import io
import os
import re
import sys
import traceback
import types
from typing import Any

from orchestration.evaluation.sandbox_values import Channel, Peer, ProgramEnded

# Exit codes of the tests' process; a test that calls os._exit with one of them is its author's business.
PASSED, PROGRAM_ENDED, FAILED = 97, 98, 1
# Methods of plain types that tests ask of results, with what they expect in the question. An object that only claims
# to be a text must not answer; one of a class that the prompt gives such a method may.
PREDICATES = {"startswith", "endswith", "issubset", "issuperset", "isdisjoint"}


def run_program(source: bytes, channel: Channel) -> None:
    """Run ``source`` as ``__main__`` in the working folder, then answer calls until nobody asks. Does not return."""
    module = types.ModuleType("__main__")
    path = f"{os.getcwd()}/program.py"
    module.__dict__.update(__file__=path, __builtins__=builtins)
    sys.modules["__main__"], sys.argv[:] = module, [path]
    code = 1
    try:
        with open(path, "wb") as file:
            file.write(source)
        exec(compile(source, path, "exec"), module.__dict__)  # what this process is for
        sys.stdout.flush()
        _answer(module.__dict__, channel)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except ProgramEnded:
        code = 0
    except BaseException:  # noqa: BLE001 - printed, and what it means is for the other process to say
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


def _answer(names: dict[str, Any], channel: Channel) -> None:
    """Serve calls; what the program prints goes to whoever asked, and what it reads comes from there."""
    peer = Peer(channel, guarded=False)
    printed = sys.stdout = io.StringIO()

    def take() -> str:
        text = printed.getvalue()
        printed.seek(0)
        printed.truncate()
        return text

    peer.printed = take
    peer.services = {
        "names": lambda: {name: callable(value) for name, value in names.items() if not name.startswith("__")},
        "global": names.__getitem__,
    }
    sys.stdin = _AskedInput(peer)
    builtins.input = lambda prompt="": peer.ask("input", str(prompt))
    peer.serve()


class _AskedInput(io.TextIOBase):
    """Standard input of the program while tests call it: theirs."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def readable(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        return str(self._peer.ask("readline", size))

    def read(self, size: int | None = -1, /) -> str:
        return str(self._peer.ask("read", size))


def run_tests(given: str, tests: str, channel: Channel) -> None:
    """Run ``tests`` against the program at the other end; exits with ``PASSED`` only from here. Does not return."""
    peer = Peer(channel, guarded=True)
    peer.written = lambda text: sys.stdout.write(text) if text else 0
    peer.services = {
        "input": lambda prompt: builtins.input(prompt),
        "readline": lambda size: sys.stdin.readline(size),
        "read": lambda size: sys.stdin.read(size),
    }
    code = FAILED
    try:
        names = _Names(peer, given)
        sys.modules["__main__"], sys.argv[:] = _Main(names), ["tests"]
        exec(compile(tests.encode(errors="surrogatepass"), "tests", "exec"), names)  # the tests are the user's own
        code = PASSED
    except ProgramEnded as ended:
        if ended.args:
            print(*ended.args, file=sys.stderr)
        else:
            code = PROGRAM_ENDED
    except BaseException:  # noqa: BLE001 - printed; the exit code says that the tests did not come to their end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Main(types.ModuleType):
    """The module that the tests' names belong to, as ``unittest.main`` looks for it."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__("__main__")
        self.__names = names

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__names[name]
        except KeyError:
            raise AttributeError(name) from None

    def __dir__(self) -> list[str]:
        return list(self.__names)


class _Names(dict[str, Any]):
    """The tests' global names: their own, else what the prompt imports and defines in full, else the program's.

    Python's built-in names and the standard library's modules stay Python's own unless the prompt defines the name: a
    program that defines ``all`` or ``math`` must not thereby decide what its tests find.
    """

    def __init__(self, peer: Peer, given: str) -> None:
        super().__init__(__name__="__main__", __builtins__=builtins)
        self._peer = peer
        offered = peer.ask("names")
        imports, helpers, defined = _read_prompt(given)
        peer.not_asked = PREDICATES - set(re.findall(r"\w+", given))
        self._reserved = (set(dir(builtins)) | set(sys.stdlib_module_names)) - defined
        if imports:
            exec(compile(ast.Module(imports, []), "prompt", "exec"), self)
        for name, is_callable in offered.items():
            if name in sys.stdlib_module_names and name in self._reserved:
                self.setdefault(name, __import__(name))
            elif name not in self._reserved and is_callable:
                self.setdefault(name, peer.ask("global", name))
        if helpers:
            exec(compile(ast.Module(helpers, []), "prompt", "exec"), self)

    def __missing__(self, name: str) -> Any:
        """A variable of the program, asked for each time since calls may change it."""
        if name in self._reserved:
            raise KeyError(name)
        return self._peer.ask("global", name)


def _read_prompt(given: str) -> tuple[list[ast.stmt], list[ast.stmt], set[str]]:
    """The prompt's imports, the functions it has in full, and the names it defines.

    The last definition is what the model is to complete. A prompt that is not Python by itself has none of these.
    """
    body: list[ast.stmt] = []
    for text in (given, f"{given}\n    pass"):  # the second for one that breaks off after "def f(x):"
        try:
            body = ast.parse(text).body
            break
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    imports: list[ast.stmt] = [each for each in body if isinstance(each, (ast.Import, ast.ImportFrom))]
    definitions = [each for each in body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    helpers: list[ast.stmt] = [each for each in definitions[:-1] if isinstance(each, ast.FunctionDef) and _full(each)]
    assigned = [target for each in body if isinstance(each, ast.Assign) for target in each.targets]
    defined = {each.name for each in definitions} | {each.id for each in assigned if isinstance(each, ast.Name)}
    return imports, helpers, defined


def _full(function: ast.FunctionDef) -> bool:
    """Whether a function does anything: more than a docstring, ``pass`` or ``...``."""
    return not all(
        isinstance(each, ast.Pass) or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in function.body
    )
