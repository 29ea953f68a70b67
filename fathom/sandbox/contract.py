"""What a caller asks of the sandbox and what it gets back: limits, a result, and how strong the walls really were.

A result never says only "it failed". Untrusted code fails in ways that mean different things to a judge (wrong, too slow, too
hungry, too talkative), so each has its own field, and the containment under which it ran comes with every result: a report must
never show numbers from the weaker mode as if they came from the stronger one.
"""
from __future__ import annotations

from dataclasses import dataclass, fields

from fathom.errors import UserError

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one run may use. Every field is positive.

    wall_s: seconds from start to kill.  cpu_s: processor seconds of each process; the fair clock on a busy machine.
    memory_bytes: for the whole run together (a control group, or else a watch over all its processes and an address-space limit on each).
    pids: processes and threads at once, the program itself included.
    output_bytes: of stdout, and of stderr; a run that exceeds one is killed.
    file_bytes: the largest file; under bubblewrap also the size of the private /tmp (and of /dev/shm), the only writable places.
    """

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_bytes: int = 512 * MIB
    pids: int = 16
    output_bytes: int = MIB
    file_bytes: int = 32 * MIB

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise UserError(f"sandbox limit {f.name}", value, "a positive number")
            if f.name != "wall_s" and value != int(value):
                raise UserError(f"sandbox limit {f.name}", value, "a whole number")
        if self.memory_bytes < 32 * MIB:
            raise UserError("sandbox limit memory_bytes", self.memory_bytes, "at least 32 MiB: the interpreter alone takes about 15")


@dataclass(frozen=True)
class Containment:
    """How a run is held.

    mode: "bubblewrap" (namespaces: no network, read-only system, own processes, another user) or "limits" (resource limits only).
    memory, pids: "cgroup" where a control group could be made, else "rlimit".
    notes: what is weaker than it could be, in words; empty when nothing is.
    """

    mode: str
    memory: str
    pids: str
    notes: tuple[str, ...] = ()

    @property
    def strong(self) -> bool:
        """Whether files, network and other processes are out of the program's reach."""
        return self.mode == "bubblewrap"

    def describe(self) -> str:
        """One line for a report."""
        head = "bubblewrap" if self.strong else "WEAKER: resource limits only, files and network within reach"
        return "; ".join([f"{head} (memory by {self.memory}, processes by {self.pids})", *self.notes])


@dataclass(frozen=True)
class Result:
    """What one run did.

    exit_status: 0..255, or None where a signal ended it.  signal: its number, or None. (A program that itself exits with 128 + n looks like
        one ended by signal n: the status crosses two processes as a shell would pass it on.)
    stdout, stderr: UTF-8, undecodable bytes replaced, at most output_bytes each.
    timed_out: killed by the wall clock, or for its processor seconds.  output_truncated: killed for talking too much.
    memory_exceeded: killed for memory; without a control group also when its last words are an unhandled MemoryError.
    wall_s: seconds it took, from the moment the walls stood.
    """

    exit_status: int | None
    signal: int | None
    stdout: str
    stderr: str
    timed_out: bool
    output_truncated: bool
    memory_exceeded: bool
    wall_s: float
    containment: Containment

    @property
    def ok(self) -> bool:
        """Ended by itself with status 0, within every limit."""
        return self.exit_status == 0 and not (self.timed_out or self.output_truncated or self.memory_exceeded)

    def reason(self) -> str:
        """Why it is not ok, in a few words; "ok" when it is."""
        if self.timed_out:
            return f"out of time after {self.wall_s:.1f} s"
        if self.memory_exceeded:
            return "out of memory"
        if self.output_truncated:
            return "too much output"
        if self.signal is not None:
            return f"ended by signal {self.signal}"
        if self.exit_status:
            last = self.stderr.strip().rsplit("\n", 1)[-1][:200]
            return f"exit status {self.exit_status}" + (f": {last}" if last else "")
        return "ok"


class SandboxError(RuntimeError):
    """The walls themselves failed (not the program inside): nothing can be said about the program, the caller should stop or retry."""
