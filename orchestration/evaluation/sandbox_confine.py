"""What Linux offers to keep a process in: namespaces, a root of its own, Landlock, seccomp, limits, no privileges.

Called by `sandbox_child` in processes that then run what nobody has read. Each function raises OSError naming the call
that the kernel refused. What holds in the end is not inferred from these having returned: `sandbox_check` tries.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Iterable

LIBC = ctypes.CDLL(None, use_errno=True)

# linux/sched.h
NEW_MOUNTS, NEW_CGROUP, NEW_UTS, NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
# linux/mount.h, and of mount_setattr
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXECUTION = 1, 2, 4, 8
AT_FDCWD, AT_RECURSIVE, MNT_DETACH = -100, 0x8000, 2
# linux/prctl.h
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 4, 22, 38, 2
CAPABILITY_VERSION = 0x20080522
# Numbers of the system call table that all architectures share.
MOUNT_SETATTR, CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 442, 444, 445, 446
# linux/landlock.h
RULE_PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
# By the kernel's Landlock version: the bits of file access, of network access and of scopes that it knows.
FILE_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
NETWORK_SINCE, NETWORK_BITS = 4, 2
SCOPES_SINCE, SCOPE_BITS = 6, 2

NOBODY = 65534
DEVICES = ("null", "zero", "full", "random", "urandom")
FOLDER = "/tmp"
FOLDER_BYTES, FOLDER_FILES, FILE_BYTES = 16 << 20, 1024, 1 << 20
OPEN_FILES, THREADS = 64, 64


def _call(name: str, *args: object) -> int:
    """A function of the C library, or ("syscall", number, …); OSError where it fails."""
    result = getattr(LIBC, name)(*[ctypes.c_size_t(each) if isinstance(each, int) else each for each in args])
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name} is refused: {os.strerror(number)}")
    return result


def enter_namespaces(*, as_root: bool) -> None:
    """New namespaces of mounts, network, IPC, host name, control groups and (for children) processes.

    An ordinary user needs one of users, too, and is nobody in it. Root does not, so that it works where there are none.
    """
    flags = NEW_MOUNTS | NEW_NETWORK | NEW_IPC | NEW_UTS | NEW_CGROUP | NEW_PROCESSES
    if as_root:
        _call("unshare", flags)
        return
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", flags | NEW_USERS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def new_processes() -> None:
    """The next child begins a namespace of processes of its own and can address no other process."""
    _call("unshare", NEW_PROCESSES)


def enter_root(base: str, readable: Iterable[str]) -> None:
    """Make ``readable`` (folders), a few devices and an empty `FOLDER` of bounded size all the files there are.

    ``base`` is an empty folder to build on. There is no /proc, no /sys and no /etc.
    """
    sources = {path: os.open(path, os.O_PATH) for path in readable if os.path.isdir(path)}
    links = {path: os.readlink(path) for path in sources if os.path.islink(path)}
    devices = {f"/dev/{name}": os.open(f"/dev/{name}", os.O_PATH) for name in DEVICES}
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    # Before the rest, since Python itself may be installed beneath it.
    os.mkdir(base + FOLDER)
    quota = f"size={FOLDER_BYTES},nr_inodes={FOLDER_FILES},mode=1777"
    _mount("tmpfs", base + FOLDER, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, quota)
    bound: list[str] = []
    for path in sorted(sources, key=len):
        target = base + path
        if any(path.startswith(f"{above}/") for above in bound):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if path in links:
            os.symlink(links[path], target)
            continue
        os.makedirs(target, exist_ok=True)
        _bind(sources[path], target, READ_ONLY | NO_SUID | NO_DEVICES)
        bound.append(path)
    os.makedirs(f"{base}/dev", exist_ok=True)
    for path, source in devices.items():
        open(base + path, "w").close()
        _bind(source, base + path, READ_ONLY | NO_SUID | NO_EXECUTION)
    _set_attributes(base, 0, READ_ONLY)
    for source in (*sources.values(), *devices.values()):
        os.close(source)
    os.chdir(base)
    # The new root is laid over the old one in the same place, and the old one taken away from under it.
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir(FOLDER)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    _call("mount", *encoded, flags, None if data is None else data.encode())


def _bind(source: int, target: str, attributes: int) -> None:
    _mount(f"/proc/self/fd/{source}", target, None, MS_BIND | MS_REC)
    _set_attributes(target, AT_RECURSIVE, attributes)


def _set_attributes(target: str, flags: int, attributes: int) -> None:
    packed = struct.pack("4Q", attributes, 0, 0, 0)
    _call("syscall", MOUNT_SETATTR, AT_FDCWD & (1 << 64) - 1, os.fsencode(target), flags, packed, len(packed))


def drop_privileges(*, as_root: bool) -> None:
    """Become nobody, hold no capability, gain none by executing anything, and be traced by none of the same user.

    May be called again by a process that has.
    """
    if as_root and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("capset", struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24))
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def end_with_parent() -> None:
    """Be killed when the process that started this one ends; forgotten when the user changes, so to be called last."""
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit(cpu_seconds: int, memory_bytes: int) -> None:
    """Hard limits that no program can lift again. That on threads does not bind root."""
    for what, most in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, THREADS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))


def restrict_files(folder: str, readable: Iterable[str]) -> bool:
    """Landlock: read ``readable``, use ``folder``, reach no port and no process outside; False where there is none."""
    version = LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    everything = (1 << FILE_BITS[min(version, max(FILE_BITS))]) - 1
    network = (1 << NETWORK_BITS) - 1 if version >= NETWORK_SINCE else 0
    scopes = (1 << SCOPE_BITS) - 1 if version >= SCOPES_SINCE else 0
    # An older kernel refuses a longer structure than it knows.
    fields = [everything, *([network] if network else []), *([scopes] if scopes else [])]
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = _call("syscall", CREATE_RULESET, attributes, len(attributes), 0)
    rules = dict.fromkeys(sorted(readable), EXECUTE | READ_FILE | READ_DIR)
    rules |= {f"/dev/{name}": READ_FILE | WRITE_FILE for name in DEVICES} | {folder: everything}
    for path, access in rules.items():
        if os.path.exists(path):
            beneath = os.open(path, os.O_PATH)
            only_files = 0 if os.path.isdir(path) else READ_DIR
            rule = struct.pack("=Qi", access & ~only_files, beneath)
            _call("syscall", ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0)
            os.close(beneath)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("syscall", RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return True


def restrict_calls(instructions: bytes) -> None:
    """seccomp: a filter as libseccomp exports it, for this process and all it starts."""
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("HxxxxxxP", len(instructions) // 8, ctypes.addressof(buffer))
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)
