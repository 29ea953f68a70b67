"""The first program inside the walls: takes its orders from a pipe, limits itself, gives up its rights, becomes the program to run.

It is started as `python -I -S -c <this file> ORDERS STATUS`, two file descriptors, in every mode. Limits are set here, inside, and
not between fork and exec in the caller: the caller may have threads, and a process limit set inside a fresh user namespace
counts only what runs there. Nothing of the package can be imported here.

In the weaker mode there is no process namespace that dies as a whole, so the guard stays: it adopts orphans
(Linux: PR_SET_CHILD_SUBREAPER), and when the program ends, or SIGTERM says so, it kills every descendant before it leaves.
"""
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def main(orders_fd: int, status_fd: int) -> None:
    """Read the orders (JSON: argv, env, files, cwd, rlimits, uid or null, supervise), obey, report "ok" or the trouble on status_fd."""
    with os.fdopen(orders_fd, "rb") as pipe:
        orders = json.loads(pipe.read())
    os.set_inheritable(status_fd, False)  # a successful exec closes it: the program can't write there
    if orders["supervise"]:
        supervise(orders, status_fd)
    else:
        become(orders, status_fd)


def become(orders: dict, status_fd: int) -> None:
    """Turn into the program. Does not return."""
    try:
        for name, (soft, hard) in orders["rlimits"].items():
            limit = getattr(resource, name)
            ceiling = resource.getrlimit(limit)[1]
            if ceiling != resource.RLIM_INFINITY:
                soft, hard = min(soft, ceiling), min(hard, ceiling)
            resource.setrlimit(limit, (soft, hard))
        uid = orders["uid"]
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        os.chdir(orders["cwd"])
        os.umask(0o077)
        for name, text in orders["files"].items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            with open(name, "x", encoding="utf-8", errors="surrogatepass", newline="") as f:
                f.write(text)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # the interpreter ignores them, and an ignored signal stays so through exec
        os.write(status_fd, b"ok")
        os.execve(orders["argv"][0], orders["argv"], orders["env"])
    except Exception as e:  # whatever went wrong happened before any untrusted code ran: the caller must hear it
        os.write(status_fd, f"!{type(e).__name__}: {e}".encode()[:2000])
        os._exit(125)


def supervise(orders: dict, status_fd: int) -> None:
    """Run the program as a child in its own session, kill all that descends from it, exit with its status (128 + n for signal n)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    adopt_orphans()
    child = os.fork()
    if child == 0:
        os.setsid()
        become(orders, status_fd)
    os.close(status_fd)
    for fd in (0, 1, 2):
        os.close(fd)
    signal.signal(signal.SIGTERM, lambda *_: leave(child, 128 + signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    while True:
        pid, status = os.wait()
        if pid == child:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            code = os.waitstatus_to_exitcode(status)
            leave(child, code if code >= 0 else 128 - code)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, where the system can do that."""
    if sys.platform == "linux":
        import ctypes
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leave(child: int, code: int) -> None:
    """Kill the child's session and then, generation by generation, everything that falls to us; exit with `code`."""
    try:
        os.killpg(child, signal.SIGKILL)
    except OSError:
        pass  # nobody is left in that group
    while True:
        for pid in children(os.getpid()):
            kill(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            os._exit(code)
        time.sleep(0.005)  # a killed parent's children come to us: look again


def children(parent: int) -> list:
    """Pids whose parent is `parent`; empty where there is no /proc."""
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as f:
                    if int(f.read().rsplit(b")", 1)[1].split()[1]) == parent:
                        found.append(int(entry))
            except OSError:
                continue  # gone meanwhile
    return found


def kill(pid: int) -> None:
    """SIGKILL; a process that is already gone is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
