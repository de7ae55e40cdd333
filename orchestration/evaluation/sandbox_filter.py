"""The system calls that a program in the sandbox may not make, as a seccomp filter; made with libseccomp.

Namespaces take away what there is to reach; this takes away the ways of reaching: no socket of any family (so neither
AF_UNIX nor AF_VSOCK, which namespaces do not cover), no further process or program, no new namespace, no tracing, and
none of the calls with which holes in the kernel are usually reached. Threads, files and memory are left.
"""

from __future__ import annotations

import errno
import functools
import tempfile

NEW_THREAD = 0x00010000  # CLONE_THREAD of linux/sched.h
AF_UNIX = 1
# Numbers that all architectures share, for an older libseccomp that does not know the names.
CLONE3, IO_URING, OPEN_TREE_ATTR = 435, (425, 426, 427), 467

# "socketpair" of AF_UNIX stays, for asyncio; what would let such a socket reach another one is refused.
SOCKETS = "socket connect bind listen accept accept4 sendmsg sendmmsg socketcall"
PROCESSES = "fork vfork execve execveat ptrace process_vm_readv process_vm_writev process_madvise pidfd_open "
PROCESSES += "pidfd_getfd pidfd_send_signal kcmp process_mrelease migrate_pages move_pages"
MOUNTS = "unshare setns mount umount umount2 pivot_root chroot move_mount open_tree fsopen fsmount "
MOUNTS += "fsconfig fspick mount_setattr swapon swapoff name_to_handle_at open_by_handle_at quotactl quotactl_fd acct"
KERNEL = "bpf perf_event_open userfaultfd keyctl add_key request_key "
KERNEL += "init_module finit_module delete_module kexec_load kexec_file_load reboot syslog personality lookup_dcookie "
KERNEL += "fanotify_init iopl ioperm modify_ldt vhangup settimeofday clock_settime clock_adjtime adjtimex "
KERNEL += "sethostname setdomainname nfsservctl uselib ustat sysfs _sysctl vmsplice memfd_secret"
# Memory that no limit of a process counts.
UNCOUNTED = "shmget shmat shmctl msgget msgsnd semget semop semtimedop mq_open"
# Without a namespace of processes a program could end others of the same user.
SIGNALS = "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo"


def refused_names(*, signals: bool) -> list[str]:
    """The calls that are refused by name, on whatever architecture has them."""
    return f"{SOCKETS} {PROCESSES} {MOUNTS} {KERNEL} {UNCOUNTED} {SIGNALS if signals else ''}".split()


@functools.cache
def refused_calls(*, signals: bool) -> bytes | None:
    """The filter for this machine as BPF instructions; None where libseccomp is not installed.

    ``signals``: refuse those to other processes, too. pyseccomp is imported here since it fails without libseccomp.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError):
        return None
    made = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in refused_names(signals=signals):
        if _is_known(pyseccomp, name):
            made.add_rule(refuse, name)
    for number in (*IO_URING, OPEN_TREE_ATTR):
        made.add_rule(refuse, number)
    made.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, NEW_THREAD, 0))
    made.add_rule(refuse, "socketpair", pyseccomp.Arg(0, pyseccomp.NE, AF_UNIX))
    made.add_rule(refuse, "sendto", pyseccomp.Arg(4, pyseccomp.NE, 0))
    # Its flags lie in memory, where a filter cannot look; the C library falls back to clone.
    made.add_rule(pyseccomp.ERRNO(errno.ENOSYS), CLONE3)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _is_known(pyseccomp: object, name: str) -> bool:
    """Whether this libseccomp has a number for the call on this machine; one it lacks cannot be refused by name."""
    return pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) >= 0  # type: ignore[attr-defined]
