"""Runs one program under limits; started by `sandbox` as a script of its own, with nothing of ours imported.

    python -I sandbox_child.py PROGRAM CPU_SECONDS MEMORY_BYTES

Limits are set, then Landlock (Linux 5.13 and later) confines the process to reading Python and the system's libraries
and writing its own folder, then the program runs. Where the kernel has no Landlock the program runs all the same: what
held is found out by `sandbox.protection`, which tries.
"""

from __future__ import annotations

import ctypes
import os
import resource
import runpy
import site
import struct
import sys

FILE_BYTES = 1 << 20
OPEN_FILES = 64

# Numbers and bits of linux/landlock.h and of the system call table that all architectures have shared since 2021.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
PR_SET_NO_NEW_PRIVS = 38
# By the kernel's Landlock version: the bits of file access, of network access and of scopes that it knows.
FILE_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
NETWORK_SINCE, NETWORK_BITS = 4, 2
SCOPES_SINCE, SCOPE_BITS = 6, 2

SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/dev/urandom", "/dev/zero")


def limit(cpu_seconds: int, memory_bytes: int) -> None:
    """Hard limits that no program can lift again."""
    for what, most in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def confine(folder: str) -> bool:
    """Confine this process to its folder and to reading what Python needs; False where the kernel cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    everything = (1 << FILE_BITS[min(version, max(FILE_BITS))]) - 1
    network = (1 << NETWORK_BITS) - 1 if version >= NETWORK_SINCE else 0
    scopes = (1 << SCOPE_BITS) - 1 if version >= SCOPES_SINCE else 0
    # An older kernel refuses a longer structure than it knows.
    fields = [everything, *([network] if network else []), *([scopes] if scopes else [])]
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    readable = {sys.prefix, sys.base_prefix, *site.getsitepackages(), *SYSTEM_FOLDERS}
    rules = dict.fromkeys(sorted(readable), EXECUTE | READ_FILE | READ_DIR)
    for path, access in (rules | {folder: everything, "/dev/null": READ_FILE | WRITE_FILE}).items():
        if os.path.exists(path):
            beneath = os.open(path, os.O_PATH)
            only_files = 0 if os.path.isdir(path) else READ_DIR
            rule = struct.pack("=Qi", access & ~only_files, beneath)
            if libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0) < 0:
                raise OSError(ctypes.get_errno(), f"landlock refuses a rule for {path}")
            os.close(beneath)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(RESTRICT_SELF, ruleset, 0):
        return False
    os.close(ruleset)
    return True


if __name__ == "__main__":
    program, cpu_seconds, memory_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    confine(os.getcwd())
    limit(cpu_seconds, memory_bytes)
    sys.argv[:] = [program]
    runpy.run_path(program, run_name="__main__")
