"""The sandbox as its callers know it: made once (that is when the walls are tried), then asked to run programs, from any thread.

Making one runs an empty program through the complete path. So a missing bubblewrap, a kernel that refuses user namespaces and an
interpreter that the inner user can't read are found before the first item is judged, with the system's own words, and nothing falls
back by itself: the weaker mode exists only for who asks for it by name.
"""
from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from fathom.errors import UserError
from fathom.sandbox import bubblewrap, cgroups
from fathom.sandbox.contract import Containment, Limits, Result, SandboxError
from fathom.sandbox.process import Ended, Job, execute

MODES = ("bubblewrap", "limits")
FIRST_UID, NUM_UIDS = 61184, 4336  # the range systemd hands to transient services: no real account lives there
OPEN_FILES = 64


@dataclass(frozen=True)
class Program:
    """One thing to run. what: Python source, or an argument list that starts with an absolute path.  files: relative name -> text, put
    beside it.  stdin: what it can read.  limits: its own, or None for the defaults."""

    what: str | Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    limits: Limits | None = None


class Sandbox:
    """Runs untrusted programs contained.

    Args:
        mode: "bubblewrap", or "limits" for the weaker one: own session, empty environment, temporary folder, resource limits, all
            descendants killed; it does NOT keep the program from your files, your network or your processes.
        python: interpreter for Python programs and for the guard, an absolute path; the one that runs now by default.
        bwrap: path of bubblewrap; looked for in the usual places by default.
        cgroup_root: where control groups are mounted; None to do without.

    Attributes: containment, how strong the walls are; python, the interpreter in use.

    Raises:
        UserError: unknown mode; bubblewrap is missing or the kernel refuses it (the reason is in the message).
    """

    WAYS_OF_ROOT = (False, True)  # walls set up as root first; else as an unprivileged user, through a user namespace

    def __init__(self, mode: str = "bubblewrap", *, python: str | None = None, bwrap: str | None = None,
                 cgroup_root: Path | None = cgroups.ROOT) -> None:
        if mode not in MODES:
            raise UserError("sandbox", mode, f"one of {', '.join(MODES)}")
        self.mode, self.python = mode, python or bubblewrap.own_python()
        self._guard = Path(__file__).with_name("guard.py").read_text(encoding="utf-8")
        self._root = os.geteuid() == 0
        self._uids = iter(())
        self._lock = threading.Lock()
        self._tree: cgroups.Tree | None = None
        self._bwrap = ""
        self._userns = False
        if mode == "limits":
            self.containment = self._try_limits()
            return
        self._bwrap = bwrap or bubblewrap.find() or ""
        if not self._bwrap:
            raise UserError("sandbox", "bubblewrap", "the program bwrap is not installed", _REMEDY)
        self._tree = cgroups.find_tree(cgroup_root) if cgroup_root else None
        self.containment = self._try_bubblewrap()

    def run(self, what: str | Sequence[str], *, files: Mapping[str, str] | None = None, stdin: str = "",
            limits: Limits | None = None) -> Result:
        """Run one program to its end or its limit; thread-safe. Python source runs with the standard library only, in an empty folder.

        Returns a Result whatever the program does. Raises UserError for a bad file name, SandboxError where the walls failed.
        """
        limits = limits or Limits()
        files = dict(files or {})
        if isinstance(what, str):
            if "main.py" in files:
                raise UserError("sandbox file", "main.py", "another name: the program itself is written there")
            files["main.py"] = what
            argv = [self.python, "-S", "-s", "-B", "main.py"]
        else:
            argv = list(what)
        for name in files:
            if os.path.isabs(name) or ".." in Path(name).parts or not Path(name).parts or "\0" in name:
                raise UserError("sandbox file", name, "a relative path inside the working folder")
        if not argv or not os.path.isabs(argv[0]):
            raise UserError("sandbox program", argv[:1], "an absolute path, or Python source")
        return self._run(argv, files, stdin, limits, self.containment)

    def run_all(self, programs: Iterable[Program], workers: int = 2) -> Iterator[Result]:
        """Run many, `workers` at a time; results in the order of the programs."""
        with ThreadPoolExecutor(workers, thread_name_prefix="sandbox") as pool:
            yield from pool.map(lambda p: self.run(p.what, files=p.files, stdin=p.stdin, limits=p.limits), programs)

    def _run(self, argv: list[str], files: Mapping[str, str], stdin: str, limits: Limits, containment: Containment) -> Result:
        isolated = self.mode == "bubblewrap"
        with ExitStack() as stack:
            inner: list[int] = []
            outer: dict[str, int] = {}
            stack.callback(lambda: [os.close(fd) for fd in (*inner, *outer.values())])

            def channel(name: str, to_child: bool) -> int:
                read, write = os.pipe()
                inner.append(read if to_child else write)
                outer[name] = write if to_child else read
                return inner[-1]

            orders_fd, status_fd = channel("orders", True), channel("status", False)
            uid = self._next_uid() if self._root else None
            folder = "/tmp" if isolated else self._folder(stack, uid)
            command = [self.python, "-I", "-S", "-c", self._guard, str(orders_fd), str(status_fd)]
            group = None
            if isolated:
                if self._tree is not None and containment.memory == "cgroup":
                    group = cgroups.Group(self._tree, limits.memory_bytes, limits.pids + 1)  # + 1: bubblewrap's own first process
                    stack.callback(group.remove)
                    if not group.make():
                        raise SandboxError("the control groups can't be made any more; was something unmounted?")
                info_fd, block_fd = channel("info", False), channel("block", True)
                seccomp_fd = self._seccomp(inner)
                walls = bubblewrap.command(self._bwrap, userns=self._userns, file_bytes=limits.file_bytes, python=self.python,
                                           info_fd=info_fd, block_fd=block_fd, seccomp_fd=seccomp_fd)
                command = [*walls, "--", *command]
            orders = {
                "argv": argv, "files": dict(files), "cwd": folder, "supervise": not isolated,
                "uid": None if isolated and self._userns else uid,
                "env": {"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
                "rlimits": self._rlimits(limits, uid, group is not None),
            }
            end = execute(Job(command, stdin.encode("utf-8", "surrogatepass"), json.dumps(orders).encode(), limits, group,
                              user=uid if self._userns else None, inner=inner, outer=outer, isolated=isolated))
            oom = end.memory_exceeded or (group is not None and group.out_of_memory())
        return _result(end, oom, containment)

    def _rlimits(self, limits: Limits, uid: int | None, grouped: bool) -> dict[str, tuple[int, int]]:
        """Resource limits for the guard to set, (soft, hard) by name."""
        processes = limits.pids + 1
        shared = self.mode == "limits" or (self._userns and _kernel() < (5, 14))  # older kernels count a user over all namespaces
        if shared and uid is None:
            processes += _tasks_of(os.getuid())
        values = {
            "RLIMIT_CPU": (limits.cpu_s, limits.cpu_s + 1), "RLIMIT_FSIZE": (limits.file_bytes,) * 2, "RLIMIT_NOFILE": (OPEN_FILES,) * 2,
            "RLIMIT_NPROC": (processes,) * 2, "RLIMIT_STACK": (8 << 20, 64 << 20), "RLIMIT_CORE": (0, 0), "RLIMIT_MEMLOCK": (0, 0),
            "RLIMIT_MSGQUEUE": (0, 0),
        }
        if not grouped:
            values["RLIMIT_AS"] = (limits.memory_bytes,) * 2
        return {name: value for name, value in values.items() if hasattr(resource, name)}

    def _next_uid(self) -> int:
        """A user id that no other run of this machine is likely to have now: process limits and signals are per user."""
        with self._lock:
            uid = next(self._uids, None)
            if uid is None:
                start = int.from_bytes(os.urandom(4), "big") % NUM_UIDS
                self._uids = iter([FIRST_UID + (start + i) % NUM_UIDS for i in range(NUM_UIDS)])
                uid = next(self._uids)
            return uid

    def _folder(self, stack: ExitStack, uid: int | None) -> str:
        """A private working folder on disk, for the weaker mode, removed with all in it when the stack closes."""
        folder = tempfile.mkdtemp(prefix="fathom-sandbox-")
        stack.callback(_remove_tree, folder)
        if uid is not None:
            os.chown(folder, uid, uid)
        return folder

    def _seccomp(self, inner: list[int]) -> int | None:
        """A descriptor from which bubblewrap reads the filter, or None where there is none for this architecture."""
        program = bubblewrap.seccomp_filter()
        if program is None:
            return None
        read, write = os.pipe()
        inner.append(read)
        os.write(write, program)  # far below a pipe's 64 KiB
        os.close(write)
        return read

    def _try_bubblewrap(self) -> Containment:
        """Try the ways in, best first; the containment of the first that works. Raises UserError with the reasons."""
        held = "cgroup" if self._tree else "rlimit"
        notes = () if bubblewrap.seccomp_filter() else (f"no system-call filter for {os.uname().machine}",)
        containment = Containment("bubblewrap", held, held, notes)
        reasons = []
        for userns in self.WAYS_OF_ROOT if self._root else (True,):
            self._userns = userns
            try:
                result = self._run([self.python, "-I", "-S", "-c", "print(6 * 7)"], {}, "", Limits(wall_s=60, cpu_s=30), containment)
            except (SandboxError, OSError) as e:
                reasons.append(str(e))
                continue
            if result.stdout == "42\n" and result.ok:
                return containment
            reasons.append(result.reason())
        why = " / ".join(dict.fromkeys(reasons))
        raise UserError("sandbox", "bubblewrap", f"it is installed ({self._bwrap}) but does not work here: {why}", _REFUSED)

    def _try_limits(self) -> Containment:
        """The weaker mode's containment, once an empty program has come through. Raises UserError."""
        containment = Containment("limits", "rlimit", "rlimit")
        try:
            result = self._run([self.python, "-I", "-S", "-c", "print(6 * 7)"], {}, "", Limits(wall_s=60, cpu_s=30), containment)
            reason = "" if result.ok else result.reason()
        except (SandboxError, OSError) as e:
            reason = str(e)
        if reason:
            remedy = "give an interpreter that every user can read: the program runs as an unprivileged one" if self._root else ""
            raise UserError("sandbox", "limits", f"a trial program failed ({self.python}): {reason}", remedy)
        return containment


def run(what: str | Sequence[str], *, files: Mapping[str, str] | None = None, stdin: str = "", limits: Limits | None = None,
        mode: str = "bubblewrap") -> Result:
    """Run one program in a sandbox made for it (25 ms more than `Sandbox.run`, for the trial). Arguments and errors as there."""
    return Sandbox(mode).run(what, files=files, stdin=stdin, limits=limits)


_REMEDY = "install it (Debian: apt-get install bubblewrap), or ask for the weaker mode by name (mode 'limits')"
_REFUSED = ("allow user namespaces (often: sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile for bwrap), "
            "or ask for the weaker mode by name (mode 'limits')")


def _result(end: Ended, oom: bool, containment: Containment) -> Result:
    """The caller's view of how it ended."""
    by_signal = end.code - 128 if 128 < end.code < 128 + signal.NSIG else None
    stdout, stderr = (end.told[name].decode("utf-8", errors="replace") for name in ("stdout", "stderr"))
    if containment.memory == "rlimit" and end.code:
        oom = oom or stderr.rstrip().rsplit("\n", 1)[-1].startswith("MemoryError")
    return Result(None if by_signal else end.code, by_signal, stdout, stderr, end.timed_out or by_signal == signal.SIGXCPU,
                  end.output_truncated, oom, end.wall_s, containment)


def _kernel() -> tuple[int, int]:
    """Linux version, (0, 0) elsewhere."""
    parts = os.uname().release.split(".")
    return (int(parts[0]), int(parts[1])) if os.uname().sysname == "Linux" else (0, 0)


def _tasks_of(uid: int) -> int:
    """Threads that a user runs now; 0 where /proc does not tell (then the process limit is the user's own business)."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid == uid:
                count += len(os.listdir(entry / "task"))
        except OSError:
            continue  # gone meanwhile
    return count


def _remove_tree(folder: str) -> None:
    """Delete a folder that hostile code may have filled: links are never followed, and folders that it locked are opened first."""
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder)
