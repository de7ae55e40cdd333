"""Programs that do what model-written programs might: none gets out, passes unsolved, or stops the evaluation."""

from __future__ import annotations

import contextlib
import json
import os
import site
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestration.errors import EvaluationError
from orchestration.evaluation.pass_at_k import judge
from orchestration.evaluation.problems import Problem
from orchestration.evaluation.sandbox import NONE, ROOT, USER, Limits, Outcome, best_namespaces, run_python, run_tests
from orchestration.evaluation.sandbox_check import protection
from orchestration.evaluation.sandbox_filter import refused_names

# The first for what would never end; the rest must not fail because the machine is busy.
QUICK, LONG = Limits(seconds=0.5, memory_mib=256), Limits(seconds=10.0, memory_mib=256)
ROOT_FOLDER = Path(__file__).resolve().parents[2]
AS_THIS_USER = [ROOT, USER] if os.geteuid() == 0 else [USER]


def test_a_program_that_comes_to_its_end_has_finished() -> None:
    outcome = run_python(
        "print('größe')\nopen('/dev/null', 'w').write('x')\nopen('mine', 'w').write('x')\nassert 1 + 1 == 2", LONG
    )
    assert outcome == Outcome(True, "", "größe\n")


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("assert 1 + 1 == 3, 'wrong'", "AssertionError: wrong"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit", "ended early with exit code 0"),
        ("import os; os._exit(0)", "ended early with exit code 0"),
        ("while True: pass", "more than 0.5 s"),
        ("import time; time.sleep(60)", "more than 0.5 s"),
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("open('big', 'wb').write(bytes(1 << 22))", "File too large"),
        ("import sys\nwhile True: sys.stdout.write('x' * 4096)", "more than 1 MiB of output"),
        ("input()", "EOFError"),
        ("import os; assert os.environ.get('HOME')", "AssertionError"),
        ("\ud800", "SyntaxError"),
        ("a = '\0'", "SyntaxError"),
        ("import os; os.abort()", "ended early with exit code 134"),
        ("import ctypes; ctypes.string_at(0)", "ended early with exit code 139"),
        ("import os; os._exit(99)", "ended early with exit code 99"),
    ],
)
def test_a_program_that_does_not_is_told_why(program: str, says: str) -> None:
    outcome = run_python(program, QUICK if "more than 0.5 s" in says else LONG)
    assert not outcome.finished
    assert says in outcome.problem


def test_a_flood_before_the_tests_are_there_is_told_as_one() -> None:
    """Reading tests of millions of characters takes a moment, in which their process still has its privileges."""
    outcome = run_tests("import sys\nwhile True: sys.stdout.write('x' * 4096)", f"# {'é' * 3_000_000}", LONG)
    assert outcome.problem == "more than 1 MiB of output"


def test_every_call_that_is_refused_has_a_number_wherever_it_exists() -> None:
    """On arm64, where it was never tried, the filter must know the same calls, but for what only older ones have."""
    import pyseccomp

    older = {"fork", "vfork", "umount", "iopl", "ioperm", "modify_ldt", "uselib", "ustat", "sysfs", "_sysctl"}
    absent = {pyseccomp.Arch.X86_64: {"umount", "socketcall"}, pyseccomp.Arch.AARCH64: {"socketcall", *older}}
    for architecture, expected in absent.items():
        names = refused_names(signals=True)
        assert {name for name in names if pyseccomp.resolve_syscall(architecture, name) < 0} == expected


# Each is tried in one program and counts as an escape if it does not raise (and is not False).
ESCAPES = {
    "tcp": "socket.create_connection(('127.0.0.1', T['port']), 1)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'.', ('127.0.0.1', T['port']))",
    "udp over ipv6": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "vsock": "socket.socket(socket.AF_VSOCK)",
    "kernel crypto": "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "unix socket by path": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].connect(T['path'])",
    "datagram by path": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'.', T['path'])",
    "message by path": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendmsg([b'.'], [], 0, T['path'])",
    "name resolution": "socket.getaddrinfo('localhost', 80) and False",
    "secret": "open(T['secret'])",
    "secret by link": "os.symlink(T['secret'], 'link') or open('link')",
    "secret by hard link": "os.link(T['secret'], 'hard')",
    "listing": "os.listdir(os.path.dirname(T['secret']))",
    "existence": "os.stat(T['secret'])",
    "shadow": "open('/etc/shadow')",
    "passwd": "open('/etc/passwd')",
    "home": "os.listdir('/root')",
    "own package": "open(T['package'])",
    "parent's environment": "open(f'/proc/{T[\"process\"]}/environ')",
    "own process": "open('/proc/self/mem')",
    "mounts": "open('/proc/self/mountinfo')",
    "kernel settings": "os.listdir('/sys')",
    "descriptors": "os.listdir('/dev/fd')",
    "writing the secret": "open(T['secret'], 'a')",
    "writing Python": "open(os.__file__, 'a')",
    "writing packages": "open(os.path.join(site.getsitepackages()[0], 'x.py'), 'w')",
    "writing the root": "open('/x', 'w')",
    "making a device": "os.mknod('sda', 0o600 | 0o060000, os.makedev(254, 0))",
    "disk": "os.listdir('/dev/block') or open('/dev/vda')",
    "kernel memory": "open('/dev/kmsg')",
    "fork": "os.fork() or os._exit(0)",
    "vfork": "subprocess.run(['/bin/true'])",
    "spawn": "os.posix_spawn(sys.executable, ['python', '-c', ''], {})",
    "exec": "os.execv(sys.executable, ['python', '-c', ''])",
    "system": "os.system('true') == 0",
    "multiprocessing": "multiprocessing.Process(target=print).start()",
    "clone without the C library": "call(56, 17, 0, 0, 0, 0)",
    "clone3": "call(435, ctypes.create_string_buffer(88), 88)",
    "ending the parent": "os.kill(T['process'], 0)",
    "ending all": "os.kill(-1, 0)",
    "ending the first process": "os.kill(1, 9) or time.sleep(0.05) or False",
    "waiting on it": "os.pidfd_open(T['process'])",
    "tracing": "call(101, 16, T['process'], 0, 0)",
    "its memory": "call(310, T['process'], 0, 0, 0, 0, 0)",
    "its limits": "resource.prlimit(T['process'], resource.RLIMIT_NOFILE)",
    "more memory": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "more time": "resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
    "becoming root": "os.setuid(0)",
    "being root": "0 in (*os.getresuid(), *os.getresgid())",
    "another group": "os.setgroups([0])",
    "new users": "call(272, 0x10000000)",
    "new mounts": "call(272, 0x00020000)",
    "mounting": "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)",
    "unmounting": "call(166, b'/tmp', 2)",
    "another root": "os.chroot('/tmp')",
    "the old root": "os.listdir('..' + '/..' * 20 + '/root')",
    "io_uring": "call(425, 8, ctypes.create_string_buffer(120))",
    "bpf": "call(321, 0, ctypes.create_string_buffer(120), 120)",
    "keys": "call(250, 0, -3, 1)",
    "performance counters": "call(298, ctypes.create_string_buffer(120), 0, -1, -1, 0)",
    "page faults": "call(323, 0)",
    "shared memory": "call(29, 0, 1 << 24, 0o1600)",
    "the host's name": "socket.sethostname('x')",
    "the clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "priority": "os.nice(-5)",
    "scheduling": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))",
    "filling the disk": "[open(f'f{i}', 'wb').write(bytes(1 << 20)) for i in range(64)]",
    "many files": "[open(f'e{i}', 'w').close() for i in range(5000)]",
    "many threads": "[threading.Thread(target=time.sleep, args=(0.2,)).start() for i in range(5000)]",
    "many descriptors": "[os.dup(0) for i in range(5000)]",
}
assert len(ESCAPES) >= 40

TRYING = """
import ctypes, json, multiprocessing, os, resource, site, socket, subprocess, sys, threading, time
T, ESCAPES = json.loads({targets!r}), json.loads({escapes!r})
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno())
out = []
for name, escape in ESCAPES.items():
    try:
        if eval(escape) is not False:
            out.append(name)
    except (OSError, RuntimeError, ValueError, AttributeError, MemoryError):
        pass
print(json.dumps(out), flush=True)
"""


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    import socket

    folder = tmp_path_factory.mktemp("targets")
    (folder / "secret").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local:
        local.bind(str(folder / "socket"))
        yield {
            "port": server.getsockname()[1],
            "path": str(folder / "socket"),
            "secret": str(folder / "secret"),
            "package": str(Path(__file__).resolve()),
            "process": os.getpid(),
        }


@pytest.mark.parametrize("namespaces", AS_THIS_USER)
def test_no_program_gets_out(namespaces: str, targets: dict[str, object]) -> None:
    program = TRYING.format(targets=json.dumps(targets), escapes=json.dumps(ESCAPES))
    outcome = run_python(program, Limits(seconds=10), namespaces=namespaces)
    assert json.loads(outcome.output) == []
    assert outcome.finished
    assert Path(str(targets["secret"])).read_text() == "kept"


def test_the_attempts_are_real(targets: dict[str, object]) -> None:
    """From here, where nothing is confined, those that harm nobody succeed: it is the sandbox that refuses them."""
    harmless = ["tcp", "udp", "unix socket by path", "datagram by path", "secret", "listing", "existence", "passwd"]
    harmless += ["parent's environment", "own process", "descriptors", "own package", "kernel settings", "fork"]
    harmless += ["ending the parent", "waiting on it", "its limits", "vfork", "system", "unix socket"]
    escapes = {name: ESCAPES[name] for name in harmless}
    program = TRYING.format(targets=json.dumps(targets), escapes=json.dumps(escapes))
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout.splitlines()[-1]) == harmless


EVERYTHING_READABLE = """
import gc, os, sys
found = []
for each in [*gc.get_objects(), *sys.argv, *os.environ.values()]:
    if isinstance(each, (str, bytes)):
        found.append(each if isinstance(each, bytes) else each.encode(errors="replace"))
    elif isinstance(each, dict):
        found += [v.encode(errors="replace") for v in each.values() if isinstance(v, str)]
frame = sys._getframe()
while frame:
    found += [str(v).encode(errors="replace") for v in frame.f_locals.values()]
    frame = frame.f_back
for name in os.listdir("."):
    found.append(open(name, "rb").read())
for descriptor in range(64):
    for what in found[:2000]:
        try:
            os.set_blocking(descriptor, False)
            os.write(descriptor, what[:1000] + b"\\n")
        except OSError:
            break
os._exit(0)
"""
ANSWER_FIRST = """
import json, os
def frame(message):
    body = json.dumps(message).encode()
    return len(body).to_bytes(8, "little") + body
for descriptor in range(3, 64):
    try:
        os.write(descriptor, ANSWER)
    except OSError:
        pass
"""
EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __sub__(self, other): return 0
    __add__ = __rsub__ = __mul__ = __abs__ = __sub__
    def __abs__(self): return 0
    def __hash__(self): return 3
    def __contains__(self, item): return True
    def __float__(self): return 0.0
"""
# Programs, and tests that a right one would pass.
SUM = "assert add(1, 2) == 3"
FORGERIES = {
    "prints all that it can read": (EVERYTHING_READABLE, SUM),
    "leaves with the code for passing": ("import os; os._exit(97)", SUM),
    "leaves when called": ("def add(a, b):\n    import os; os._exit(97)", SUM),
    "exits when called": ("def add(a, b): raise SystemExit(0)", SUM),
    "interrupts when called": ("def add(a, b): raise KeyboardInterrupt", SUM),
    "replaces its file by a folder": ("import os\nos.remove('program.py'); os.mkdir('program.py')", SUM),
    "a folder for output": ("import os\nos.mkdir('output')", SUM),
    "a pipe for output": ("import os\nos.mkfifo('output')", SUM),
    "endless output": ("import os\nos.symlink('/dev/zero', 'output')", SUM),
    "a locked folder": ("import os\nos.chmod('.', 0)", SUM),
    "closes all": ("import os\nos.closerange(0, 64)", SUM),
    "closes all and stays": ("import os, time\nos.closerange(0, 64)\ntime.sleep(60)", SUM),
    "says that it passed": (ANSWER_FIRST.replace("ANSWER", "frame(['answer', 'value', True, [], '']) * 50"), SUM),
    "sends no JSON": (ANSWER_FIRST.replace("ANSWER", "(1 << 20).to_bytes(8, 'little') + b'[' * (1 << 20)"), SUM),
    "sends without end": (ANSWER_FIRST.replace("ANSWER", "(1 << 62).to_bytes(8, 'little')"), SUM),
    "asks for no answer": (ANSWER_FIRST.replace("ANSWER", "frame(['ask', 'call', [['yours', 1]], None]) * 99"), SUM),
    "equals everything": (f"{EQUAL}\ndef add(a, b): return Equal()", SUM),
    "equals everything, nearly": (f"{EQUAL}\ndef add(a, b): return Equal()", "assert abs(add(1, 2) - 3) < 1e-6"),
    "is below everything": (f"{EQUAL}\ndef add(a, b): return Equal()", "assert 2 < add(1, 2) < 4"),
    "is in every set": (f"{EQUAL}\ndef add(a, b): return Equal()", "assert add(1, 2) in {3} or {add(1, 2)} == {3}"),
    "contains everything": (f"{EQUAL}\ndef add(a, b): return Equal()", "assert 3 in add(1, 2)"),
    "begins with everything": (
        f"{EQUAL}    def startswith(self, text): return True\ndef add(a, b): return Equal()",
        "assert str(add(1, 2)) == '3' and 'x3'[1:].startswith('3') and add('a', 'b').startswith('ab')",
    ),
    "equals everything as a number": (EQUAL.replace("Equal:", "Equal(int):") + "\ndef add(a, b): return Equal()", SUM),
    "equals everything as a class": (f"{EQUAL}\nclass add(Equal):\n    def __init__(self, a, b): pass", SUM),
    "is anything": ("from unittest.mock import ANY\ndef add(a, b): return ANY", SUM),
    "is a mock": ("from unittest.mock import MagicMock\nadd = MagicMock()", SUM),
    "has other built-ins": (
        "def all(x): return True\ndef add(a, b): return 0",
        "assert all(add(n, n) == 2 * n for n in [1])",
    ),
    "changes the interpreter": (
        "import builtins\nbuiltins.all = lambda x: True\ndef add(a, b): return 0",
        "assert all(add(n, n) == 2 * n for n in [1])",
    ),
    "has another mathematics": (
        "class math:\n    isclose = staticmethod(lambda *a: True)\ndef add(a, b): return 0",
        "assert math.isclose(add(0.5, 1.0), 1.5)",
    ),
    "has another helper": ("def add(a, b): return 0\ndef right(x, y): return True", "assert right(add(4, 4), 8)"),
    "raises no errors": ("import builtins\nbuiltins.AssertionError = SystemExit\ndef add(a, b): return 0", SUM),
    "looks at its caller": ("import sys\ndef add(a, b): return sys._getframe(1).f_locals.get('expected', 0)", SUM),
    "exceeds memory when called": ("def add(a, b): return 'x' * (1 << 25)", SUM),
    "never returns": ("def add(a, b):\n    while True: pass", SUM),
    "contains itself": ("def add(a, b):\n    x = []\n    x.append(x)\n    return x", SUM),
    "watches what runs": ("import sys\nsys.settrace(lambda *a: None)\ndef add(a, b): return 0", SUM),
}
ENDLESS = {"closes all and stays", "never returns"}
GIVEN = "import math\ndef right(x, y):\n    return x == y\n\ndef add(a, b):\n    '''The sum.'''\n"


@pytest.mark.parametrize("name", FORGERIES)
def test_no_program_passes_without_solving(name: str) -> None:
    program, tests = FORGERIES[name]
    assert not run_tests(program, tests, QUICK if name in ENDLESS else LONG, given=GIVEN).finished


def test_a_right_program_passes() -> None:
    tests = "\n".join(sorted({tests for _, tests in FORGERIES.values()} - {"assert 3 in add(1, 2)"}))
    assert run_tests("def add(a, b): return a + b", tests, LONG, given=GIVEN) == Outcome(True, "", "")
    problem = Problem(prompt="def add(a, b):\n", tests=SUM)
    assert judge(problem, "    return a + b\n", LONG)
    assert not judge(problem, "    return a + b\nimport os; os._exit(0)\n", LONG)


def test_what_the_tests_hand_out_leads_nowhere() -> None:
    """The program gets a function, a generator and an object of the tests; it may use them, and no more."""
    program = """
    got = []
    def reach(*given):
        for each in given:
            for path in ("__globals__", "__code__", "gi_frame", "__class__.__init__.__globals__", "__dict__", "f_back"):
                target = each
                try:
                    for name in path.split("."):
                        target = ask("getattr", target, name)
                    got.append(path)
                except (TypeError, AttributeError):
                    pass
        peer = object.__getattribute__(given[0], "_peer")
        for what in ("{0.__globals__}", type):
            try:
                got.append(peer.ask("getattr", what, "format"))
                got.append(peer.ask("call", what, given[0]))
            except (TypeError, AttributeError):
                pass
        return given[0](20), list(given[1]), given[2].size
    def ask(how, target, name):
        return object.__getattribute__(target, "_peer").ask(how, target, name)
    """
    tests = """
    class Box:
        def __init__(self): self.size = 7
    def double(n): return 2 * n
    def some(): yield from range(3)
    assert reach(double, some(), Box()) == (40, [0, 1, 2], 7)
    assert got == [], got
    """
    outcome = run_tests(textwrap.dedent(program), textwrap.dedent(tests), LONG)
    assert outcome.finished, outcome.output


# Programs and tests as people write them: what is between the two processes must not be noticed.
ORDINARY = """
from __future__ import annotations
import math, sys
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from enum import Enum, IntEnum
from fractions import Fraction
from typing import NamedTuple
calls = 0
class Negative(ValueError): pass
class Colour(Enum):
    RED = "red"
class Level(IntEnum):
    LOW = 1
class Pair(NamedTuple):
    a: int
    b: int = 2
@dataclass
class Point:
    x: int
class Vector:
    def __init__(self, x): self.x = x
    def __add__(self, other): return Vector(self.x + other.x)
    def __eq__(self, other): return self.x == other.x
    def move(self): self.x += 1; return self
class Stack(list):
    def push(self, x): self.append(x)
def sort(xs, key=None): xs.sort(key=key)
def count():
    global calls
    calls += 1
    return Counter("aab"), deque([1]), OrderedDict(a=1), defaultdict(int, a=2), Fraction(1, 3)
def root(x):
    if x < 0: raise Negative("negative")
    if x == 0: raise KeyError("zero")
    return math.sqrt(x)
def up_to(n):
    for each in range(n): yield each
def total(node): return node.value + sum(total(each) for each in node.children)
def main():
    n = int(input())
    print(2 * n)
    print(sys.stdin.readline().strip())
def values(): return [None, True, 1.5, 2**5000, b"x", {1}, {(1, 2): frozenset([3])}, float("inf"), 1j, "\\ud800"]
def add_one(f): return lambda *a: f(*a) + 1
async def later(): return 3
def keywords(*, k=1, **more): return k, more
class Manager:
    def __enter__(self): return 5
    def __exit__(self, kind, value, trace): return kind is ValueError
"""
ORDINARY_TESTS = """
import asyncio, contextlib, io, unittest
xs = [3, 1, 2]; sort(xs); assert xs == [1, 2, 3]
sort(xs=xs, key=lambda x: -x); assert xs == [3, 2, 1]
count(); assert calls == 1
counter, queue, ordered, default, third = count(); assert calls == 2
assert counter == Counter("aab") and counter.most_common(1) == [("a", 2)] and queue == deque([1]) and default["z"] == 0
assert ordered == {"a": 1} and third * 3 == 1 and math.isclose(math.pi, 3.1415926535)
for wrong, error, text in ((-1, Negative, "negative"), (-1, ValueError, "negative"), (0, KeyError, "'zero'")):
    try: root(wrong)
    except error as found: assert str(found) == text
    else: assert False
assert root(4) == 2.0 and abs(root(2.25) - 1.5) < 1e-9
assert Colour.RED == Colour.RED and Colour("red").value == "red" and Level.LOW == 1 and Level.LOW + 1 == 2
assert Pair(1) == (1, 2) and Pair(1).b == 2 and Point(1) == Point(1) != Point(2) and repr(Point(1)) == "Point(x=1)"
v = Vector(1); v.move(); v.x += 1; assert v.x == 3 and v + Vector(2) == Vector(5) and isinstance(v, Vector)
s = Stack(); s.push(1); assert s == [1] and s[0] == 1 and len(s) == 1 and 1 in s and list(s) == [1]
assert list(up_to(3)) == [0, 1, 2] and sum(up_to(4)) == 6
class Node:
    def __init__(self, value, *children): self.value, self.children = value, children
assert total(Node(1, Node(2), Node(3, Node(4)))) == 10
import sys
sys.stdin = io.StringIO("3\\nxy\\n")
with contextlib.redirect_stdout(io.StringIO()) as said: main()
assert said.getvalue() == "6\\nxy\\n"
assert values() == [None, True, 1.5, 2**5000, b"x", {1}, {(1, 2): frozenset([3])}, float("inf"), 1j, "\\ud800"]
@add_one
def same(x): return x
assert same(1) == 2 and asyncio.run(later()) == 3 and keywords(k=2, z=[1]) == (2, {"z": [1]})
with Manager() as five: assert five == 5
with Manager(): raise ValueError
import numpy
assert (numpy.array([1, 2]) == add_one(lambda x: x)(numpy.array([0, 1]))).all()
class Cases(unittest.TestCase):
    def test_root(self):
        self.assertEqual(root(9), 3)
        with self.assertRaises(Negative): root(-1)
result = unittest.main(exit=False).result
assert result.testsRun == 1 and result.wasSuccessful()
"""


def test_ordinary_programs_and_tests_do_not_notice() -> None:
    outcome = run_tests(ORDINARY, ORDINARY_TESTS, Limits(10.0))
    assert outcome.finished, outcome.output


def test_a_function_named_like_a_built_in_is_the_programs_if_the_prompt_defines_it() -> None:
    program, test = "def sum(xs): return 42", "assert sum([1]) == 42"
    assert run_tests(program, test, LONG, given="def sum(xs):\n    '''Add.'''\n").finished
    assert not run_tests(program, test, LONG).finished


def test_nothing_is_left_of_a_sample() -> None:
    """Neither a process, however it tried to stay, nor a folder, nor an open descriptor."""
    before = _open_descriptors()
    program = "import os, signal, time\nos.setsid()\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(654.321)\n"
    assert "more than" in run_python(program, QUICK).problem
    deadline = time.monotonic() + 30
    while any(b"sandbox_child" in each for each in _command_lines_of_children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(b"sandbox_child" in each for each in _command_lines_of_children())
    assert _open_descriptors() <= before  # fewer where an earlier test's files were collected meanwhile


@pytest.mark.parametrize("namespaces", [AS_THIS_USER[0], NONE])
def test_nothing_is_left_when_the_evaluation_is_killed(namespaces: str) -> None:
    program = f"""
    from orchestration.evaluation.sandbox import Limits, run_python
    run_python("print('up', flush=True); import time; time.sleep(600)", Limits(600), namespaces={namespaces!r})
    """
    evaluation = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    started: list[psutil.Process] = []
    while len(started) < (5 if namespaces else 3):
        assert evaluation.poll() is None
        started = psutil.Process(evaluation.pid).children(recursive=True)
        time.sleep(0.02)
    evaluation.kill()
    evaluation.wait()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive


def _open_descriptors() -> set[tuple[str, str]]:
    """The number and the target of each: a pipe's or a socket's target names its inode."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


def _command_lines_of_children() -> Iterator[bytes]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            status, line = Path(f"/proc/{pid}/status").read_text(), Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"PPid:\t{os.getpid()}\n" in status:
            yield line


@pytest.mark.parametrize("wrong", [{"seconds": float("nan")}, {"seconds": float("inf")}, {"memory_mib": 1 << 40}])
def test_limits_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(EvaluationError, match=f"{next(iter(wrong))} = .*: a program's limit must lie in"):
        Limits(**wrong)  # type: ignore[arg-type]


def test_protection_is_what_was_found_by_trying() -> None:
    for namespaces in AS_THIS_USER:
        assert protection(namespaces).possible() == []
        assert "CAN" not in protection(namespaces).describe()
    assert "fill the disk" in protection(NONE).possible()
    assert "programs CAN" in protection(NONE).describe()
    assert best_namespaces() == AS_THIS_USER[0]


def test_python_may_be_installed_beneath_the_folder_for_temporary_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    found = subprocess.run(
        [tmp_path / "venv/bin/python", "-c", "import site; print(site.getsitepackages()[0])"],
        capture_output=True,
        text=True,
        check=True,
    )
    (Path(found.stdout.strip()) / "installed.py").write_text("answer = 42")
    program = """
    from orchestration.evaluation.sandbox import Limits, run_tests
    program = "import installed, tempfile\\nopen('/tmp/x', 'w').close()\\ntempfile.mkdtemp()"
    print(run_tests(program, "assert installed.answer == 42", Limits()))
    """
    ran = subprocess.run(
        [tmp_path / "venv/bin/python", "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": os.pathsep.join(map(str, [ROOT_FOLDER, *site.getsitepackages()]))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "finished=True" in ran.stdout, ran.stdout


# What a machine refuses: as a container does (Docker's default profile and its capabilities), a container whose makers
# forgot calls that came later, an old kernel. Each is a real filter on a real process.
REFUSING = {
    "container": (
        {"EPERM": "unshare setns mount umount2 pivot_root keyctl bpf ptrace kcmp close_range", "ENOSYS": "clone3"},
        "CAN fill the disk",
        "namespaces: unshare is refused: Operation not permitted",
    ),
    "no mounts": ({"EPERM": "mount"}, "CAN fill the disk", "namespaces: mount is refused: Operation not permitted"),
    "old kernel": (
        {"ENOSYS": "mount_setattr landlock_create_ruleset clone3 close_range"},
        "CAN read your files",
        "namespaces: syscall is refused: Function not implemented",
    ),
    "no new root": ({"EPERM": "pivot_root"}, "CAN fill the disk", "namespaces: pivot_root is refused"),
}


@pytest.mark.parametrize("machine", REFUSING)
def test_a_machine_that_cannot_confine_is_refused_unless_that_is_meant(machine: str) -> None:
    """As root without the right to administer, as in a container, and with as many open files as one allows."""
    refused, can, why = REFUSING[machine]
    program = f"""
    import errno, pyseccomp, resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    filter = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for error, names in {refused!r}.items():
        for name in names.split():
            filter.add_rule(pyseccomp.ERRNO(getattr(errno, error)), name)
    new_user = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, 0x10000000, 0x10000000)
    if {machine!r} == "container":
        filter.add_rule(pyseccomp.ERRNO(errno.EPERM), "clone", new_user)
    filter.load()
    from orchestration.errors import EvaluationError
    from orchestration.evaluation.sandbox import Limits, run_tests
    from orchestration.evaluation.sandbox_check import require_confinement
    try:
        require_confinement(unsafe=False)
    except EvaluationError as error:
        print(error)
    require_confinement(unsafe=True)
    print(run_tests("def f(): return 1", "assert f() == 1", Limits()).finished)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    if machine == "container" and os.geteuid() == 0:
        command = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "--no-new-privs", *command]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    said, unsafe = ran.stdout.splitlines()
    assert can in said
    assert why in said
    assert "--unsafe-sandbox" in said
    assert unsafe == "True"


def test_a_machine_without_filters_is_refused() -> None:
    """One that has no seccomp, or refuses another filter on top of its own."""
    program = """
    import errno, pyseccomp
    from orchestration.errors import EvaluationError
    from orchestration.evaluation.sandbox_check import require_confinement
    filter = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    filter.add_rule(pyseccomp.ERRNO(errno.EINVAL), "prctl", pyseccomp.Arg(0, pyseccomp.EQ, 22))
    filter.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "seccomp")
    filter.load()
    for unsafe in (False, True):
        try:
            require_confinement(unsafe=unsafe)
        except EvaluationError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    print(ran.stdout)
    assert ran.stdout.count("prctl is refused: Invalid argument") == 2, ran.stdout
