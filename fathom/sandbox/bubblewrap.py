"""The strong walls: what bubblewrap is told, and the system calls that stay forbidden inside.

The program sees /usr and the libraries read-only, the interpreter, a tiny /dev, and an empty /tmp of fixed size. No /proc: it would
tell about the machine, and leaving it out lets this work inside containers, which often may not mount one. No network but a loopback
of its own, no other process, no terminal, no capability, another user.

Two ways in. An ordinary user gets a user namespace ("userns"). Root either lets bubblewrap set the walls up as root and gives its uid
up inside, in the guard, before any untrusted code ("root"), or becomes an unprivileged user first and goes the ordinary way
(where root may not mount, as in most containers). Root keeps no real root inside in either: uid 0 is exempt from process limits.

A seccomp filter forbids what could still make memory that no limit counts (memfd, System V segments, mounts in a nested user
namespace), and the system calls with the worst record. Bugs of the kernel itself are not covered: this holds programs written by
models, not by exploit writers.
"""
from __future__ import annotations

import os
import platform
import struct
import sys
from pathlib import Path

SEARCH = ("/usr/bin", "/usr/local/bin", "/bin", "/run/wrappers/bin", "/run/current-system/sw/bin")
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

# name: (x86_64, aarch64); the numbers are the kernel's ABI
FORBIDDEN = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "fsopen": (430, 430), "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
}
CLONE, CLONE3 = (56, 220), (435, 435)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
CLONE_NEWUSER = 0x10000000
EPERM, ENOSYS = 1, 38


def find() -> str | None:
    """Path of the bubblewrap program, or None."""
    return next((f"{folder}/bwrap" for folder in SEARCH if os.access(f"{folder}/bwrap", os.X_OK)), None)


def command(bwrap: str, *, userns: bool, file_bytes: int, python: str, info_fd: int, block_fd: int, seccomp_fd: int | None) -> list[str]:
    """The command line up to "--"; the program to start inside follows.

    userns: through a user namespace (else as root, keeping only the rights to change uid and gid).
    file_bytes: size of /tmp and of /dev/shm.
    info_fd, block_fd, seccomp_fd: bubblewrap's own channels: where it tells the inner pid, what it waits for, the filter.
    """
    argv = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent",
            "--new-session", "--hostname", "sandbox", "--clearenv", "--cap-drop", "ALL"]
    if userns:
        argv += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    else:
        argv += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    argv += ["--ro-bind", "/usr", "/usr"]
    for name in SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            argv += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            argv += ["--ro-bind", str(path), str(path)]
    argv += ["--perms", "0755", "--dir", "/etc", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    made: set[str] = {"/usr"}
    for path in interpreter_paths(python):
        for parent in reversed(Path(path).parents):  # bubblewrap would make them 0700, after a private home, say
            if str(parent) != "/" and str(parent) not in made:
                argv += ["--perms", "0755", "--dir", str(parent)]
                made.add(str(parent))
        argv += ["--ro-bind", path, path]
    size = ["--size", str(file_bytes), "--perms", "1777", "--tmpfs"]
    argv += ["--dev", "/dev", *size, "/dev/shm", "--remount-ro", "/dev", *size, "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    argv += ["--info-fd", str(info_fd), "--block-fd", str(block_fd)]
    if seccomp_fd is not None:
        argv += ["--seccomp", str(seccomp_fd)]
    return argv


def interpreter_paths(python: str) -> list[str]:
    """What to show of an interpreter outside /usr: it and the `lib` folder beside its `bin`; never a whole prefix: that may be a home."""
    if python.startswith("/usr/"):
        return []
    lib = Path(python).parent.parent / "lib"
    return [str(lib), python] if lib.is_dir() else [python]


def own_python() -> str:
    """The interpreter that runs now, outside any virtual environment."""
    base = Path(sys.base_exec_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return os.path.realpath(base if base.exists() else sys.executable)


def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter as the kernel reads it (struct sock_filter[]), or None for an architecture whose numbers aren't in the table."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        return None
    column, audit = ARCHITECTURES[machine]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, error = 0x7FFF0000, 0x80000000, 0x00050000
    program = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0),
               (at_least, 0, 1, 0x40000000), (give, 0, 0, error | ENOSYS)]  # x32 calls, by other numbers
    for numbers in FORBIDDEN.values():
        program += [(equal, 0, 1, numbers[column]), (give, 0, 0, error | EPERM)]
    program += [(equal, 0, 1, CLONE3[column]), (give, 0, 0, error | ENOSYS)]  # its flags lie in memory, unseen from here: libc takes clone
    program += [(equal, 0, 3, CLONE[column]), (load, 0, 0, 16), (any_bit, 0, 1, CLONE_NEWUSER), (give, 0, 0, error | EPERM),
                (give, 0, 0, allow)]
    return b"".join(struct.pack("=HBBI", *step) for step in program)
