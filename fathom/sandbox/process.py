"""One contained run from start to last word: feed it, read it, watch its clock and memory, and leave nobody alive.

The loop wakes when a pipe is ready and every TICK_S anyway, to look at clock and memory. A program is over when its first process is;
children that it left behind may hold the pipes open for ever, so they are killed then, and what is still in the pipes is read.

Memory that runs out ends the whole run. Control groups of version 2 see to that themselves (memory.oom.group); in version 1 the kernel kills
one process and lets the others go on, so the first such kill is looked for and the rest is killed here.
"""
from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fathom.sandbox.cgroups import Group
from fathom.sandbox.contract import Limits, SandboxError

TICK_S = 0.02
START_S = 30.0  # to set the walls up; milliseconds, but the machine may be very busy
CHUNK = 1 << 16


@dataclass
class Job:
    """What to start, and the channels it was told about.

    argv: complete command.  user: (uid) to become before it, or None.  orders: bytes for the guard.
    inner, outer: file descriptors the child needs, and those we keep, by name: orders, status, info, block.
    """

    argv: list[str]
    stdin: bytes
    orders: bytes
    limits: Limits
    group: Group | None
    user: int | None
    inner: list[int]
    outer: dict[str, int]
    isolated: bool


@dataclass
class Ended:
    """How it ended; `code` as a shell would see it (128 + n for signal n)."""

    code: int = 0
    wall_s: float = 0.0
    timed_out: bool = False
    output_truncated: bool = False
    memory_exceeded: bool = False
    told: dict[str, bytearray] = field(default_factory=lambda: {name: bytearray() for name in ("stdout", "stderr", "status", "info")})


def execute(job: Job) -> Ended:
    """Run to the end. Raises SandboxError where the walls could not be set up; then no untrusted code has run."""
    end = Ended()
    with ExitStack() as stack:
        pipe = subprocess.PIPE
        process = subprocess.Popen(job.argv, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=job.inner, env={}, cwd="/", bufsize=0,
                                   start_new_session=True, user=job.user, group=job.user, extra_groups=None if job.user is None else [])
        run = Run(job, process, end)
        stack.callback(run.close)
        stack.callback(run.kill)  # first of the two: also when we are interrupted
        for fd in job.inner:
            os.close(fd)
        job.inner.clear()
        if job.isolated:
            run.release()
        run.watch()
    return end


class Run:
    """The state of the loop. `close` and `kill` may be called at any time, in that order reversed."""

    def __init__(self, job: Job, process: subprocess.Popen, end: Ended) -> None:
        self.job, self.process, self.end = job, process, end
        self.started = time.monotonic()
        self.init_pid, self.init_fd = 0, -1  # first process of the inner namespace: when it dies, the kernel kills all the others
        self.select = selectors.DefaultSelector()
        assert process.stdin and process.stdout and process.stderr
        self.readers = {process.stdout.fileno(): "stdout", process.stderr.fileno(): "stderr", job.outer["status"]: "status"}
        self.writers = {process.stdin.fileno(): memoryview(job.stdin), job.outer["orders"]: memoryview(job.orders)}
        for fd in (*self.readers, *self.writers):
            os.set_blocking(fd, False)
            self.select.register(fd, selectors.EVENT_READ if fd in self.readers else selectors.EVENT_WRITE)

    def release(self) -> None:
        """Wait for bubblewrap's word on the inner first process, put that under the limits, let it go on."""
        info, told = self.job.outer["info"], self.end.told
        deadline = time.monotonic() + START_S
        os.set_blocking(info, False)
        with selectors.DefaultSelector() as waiting:
            waiting.register(info, selectors.EVENT_READ)
            while b"}" not in told["info"]:
                ready = waiting.select(max(0.0, deadline - time.monotonic()))
                data = os.read(info, CHUNK) if ready else b""
                if not data:
                    self.process.kill()
                    self.drain()
                    raise SandboxError(f"bubblewrap did not start: {self.said() or 'no word from it'}")
                told["info"] += data
        self.init_pid = json.loads(told["info"])["child-pid"]
        with suppress(OSError, AttributeError):
            self.init_fd = os.pidfd_open(self.init_pid)  # still blocked, so surely this one; a plain pid could be another's later
        if self.job.group is not None:
            try:
                self.job.group.add(self.init_pid)
            except OSError as e:
                raise SandboxError(f"the control group refused the program: {e}") from e
        self.started = time.monotonic()
        os.write(self.job.outer["block"], b"x")

    def watch(self) -> None:
        """Pump the pipes until the program is over or over a limit, then kill what is left and read the rest."""
        root = self.init_pid or self.process.pid
        look_at = self.started
        while not self.over():
            self.pump(TICK_S)
            now = time.monotonic()
            if now >= look_at:  # a talkative program wakes the loop far more often than this is worth
                look_at = now + TICK_S
                self.end.timed_out = now - self.started > self.job.limits.wall_s
                self.end.memory_exceeded = not self.end.timed_out and self.memory_spent(root)
            if self.end.timed_out or self.end.output_truncated or self.end.memory_exceeded:
                break
        self.end.wall_s = time.monotonic() - self.started
        self.kill()
        self.drain()
        status, _, trouble = bytes(self.end.told["status"]).partition(b"!")
        if trouble:
            raise SandboxError(f"the guard could not start the program: {trouble.decode(errors='replace')}")
        if status != b"ok" and not (self.end.timed_out or self.end.memory_exceeded or self.group_killed()):
            raise SandboxError(f"the walls did not come up: {self.said() or f'exit status {self.end.code}'}")

    def memory_spent(self, root: int) -> bool:
        """Whether the run must end for its memory: one of it was killed for that or, without a group, together they hold too much."""
        return self.group_killed() if self.job.group is not None else resident_bytes(root) > self.job.limits.memory_bytes

    def group_killed(self) -> bool:
        """Whether the kernel has killed for memory in the run's group; that may be before even the guard comes through."""
        return self.job.group is not None and self.job.group.out_of_memory()

    def over(self) -> bool:
        """Whether the first process has ended; notes its status, once."""
        code = self.process.poll()
        if code is None:
            return False
        self.end.code = code if code >= 0 else 128 - code
        return True

    def pump(self, timeout_s: float) -> bool:
        """Move what can be moved now; False if nothing could."""
        ready = self.select.select(timeout_s)
        for key, _ in ready:
            if key.fd in self.readers:
                self.read(key.fd)
            else:
                self.write(key.fd)
        if not self.select.get_map() and self.process.returncode is None:
            time.sleep(min(timeout_s, 0.002))  # the end is near, unless it closed every pipe and lives on
        return bool(ready)

    def read(self, fd: int) -> None:
        """Take what is there, up to the limit for that stream."""
        with suppress(BlockingIOError):
            data = os.read(fd, CHUNK)
            if not data:
                self.select.unregister(fd)
                return
            name = self.readers[fd]
            held = self.end.told[name]
            room = self.job.limits.output_bytes - len(held)
            held += data[:room]
            if len(data) > room:
                self.end.output_truncated = True

    def write(self, fd: int) -> None:
        """Give what fits; close when all is given or nobody listens."""
        data = self.writers[fd]
        with suppress(BlockingIOError):
            try:
                data = data[os.write(fd, data):] if len(data) else data
            except BrokenPipeError:
                data = memoryview(b"")
            self.writers[fd] = data
            if not len(data):
                self.select.unregister(fd)
                self.close_writer(fd)

    def close_writer(self, fd: int) -> None:
        """End of input."""
        if fd == self.job.outer.get("orders"):
            os.close(self.job.outer.pop("orders"))
        elif self.process.stdin:
            self.process.stdin.close()

    def kill(self) -> None:
        """End every process of the run and reap ours."""
        if self.job.isolated:
            with suppress(OSError):
                if self.init_fd >= 0:
                    signal.pidfd_send_signal(self.init_fd, signal.SIGKILL)
                elif self.init_pid and self.process.returncode is None:
                    os.kill(self.init_pid, signal.SIGKILL)
            if not self.wait(1.0):
                self.process.kill()
        elif not self.over():
            self.process.terminate()  # the guard kills its descendants and leaves
            if not self.wait(5.0):
                with suppress(OSError):
                    os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.over()

    def wait(self, patience_s: float) -> bool:
        """Whether the first process ends within `patience_s`."""
        deadline = time.monotonic() + patience_s
        while not self.over():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def drain(self) -> None:
        """Read what is left in the pipes: everyone who could write is dead (or, in the weaker mode, has had a moment)."""
        deadline = time.monotonic() + 1.0
        while self.select.get_map() and time.monotonic() < deadline:
            if not self.pump(0.0 if self.process.returncode is not None else TICK_S):
                break

    def said(self) -> str:
        """Its stderr on one line, shortened."""
        return " ".join(self.end.told["stderr"].decode(errors="replace").split())[:300]

    def close(self) -> None:
        """Close every descriptor that is ours."""
        self.select.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe and not pipe.closed:
                pipe.close()
        if self.init_fd >= 0:
            os.close(self.init_fd)


def resident_bytes(root: int) -> int:
    """Memory that the descendants of `root`, and it, hold for themselves; 0 where /proc does not tell.

    Pages shared after a fork count for each holder: the watch errs toward the limit.
    """
    total, left, page = 0, [root], os.sysconf("SC_PAGE_SIZE")
    while left:
        pid = left.pop()
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/statm").read_text().split()
            total += (int(fields[1]) - int(fields[2])) * page
            for task in os.listdir(f"/proc/{pid}/task"):
                left += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return total
