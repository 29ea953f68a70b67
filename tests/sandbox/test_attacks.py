"""Hostile programs, through every way into the sandbox: what they try must fail, end in time, and leave nothing behind.

Each attack first proves its own teeth where that is cheap (the same code outside does harm), so that a test can't pass because the
attack was broken.
"""
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fathom.sandbox import Limits

MIB = 1 << 20


def processes(marker):
    """Pids whose command line holds `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def gone(marker, patience=5.0):
    """Whether no process with the marker is left, soon."""
    deadline = time.monotonic() + patience
    while processes(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_fork_bomb(any_box):
    """It ends by the clock and nothing of it is left, though every process of it forks on until it dies."""
    marker = f"56789.{os.getpid()}{time.monotonic_ns()}"
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    result = any_box.run(f"import os, sys\nos.execv(sys.executable, [sys.executable, '-S', '-c', {bomb!r}, '{marker}'])",
                         limits=Limits(wall_s=1.0, pids=12))
    assert result.timed_out and gone(marker)
    counted = any_box.run("""
import os, time
alive = 1
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        alive += 1
except OSError:
    print(alive, flush=True)
os._exit(0)
""", limits=Limits(pids=12))
    assert counted.ok and 6 <= int(counted.stdout) <= 13


def test_one_bomb_leaves_room_for_the_next_run(boxes):
    """Two runs at once: what one uses up is not missing for the other."""
    box = boxes("as_we_are")
    bomb = threading.Thread(target=box.run, args=("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n",),
                            kwargs={"limits": Limits(wall_s=2.0)})
    bomb.start()
    time.sleep(0.3)
    results = [box.run("import os\nprint(sum(os.wait()[1] == 0 for _ in range(4) if os.fork() or os._exit(0)))") for _ in range(3)]
    bomb.join()
    assert [r.stdout for r in results] == ["4\n"] * 3, results[0].stderr


def test_memory_bomb(any_box):
    result = any_box.run("held = []\nwhile True: held.append(bytearray(1 << 20))", limits=Limits(memory_bytes=128 * MIB))
    assert result.memory_exceeded and not result.ok and len(result.stdout) == 0


def test_memory_bomb_of_many(any_box):
    """Eight processes of 60 MiB each under a parent that holds nothing: no single one is large, together they are.

    The kernel kills the large ones. The parent isn't one of them and would sleep for minutes, then say that it is alive: so it can only have
    been ended by us, for the memory of the whole.
    """
    result = any_box.run("""
import os, time
for _ in range(8):
    if os.fork() == 0:
        held = bytearray(60 << 20)
        for i in range(0, len(held), 4096): held[i] = 1
        time.sleep(300)
        os._exit(0)
time.sleep(300)
print("alive")
""", limits=Limits(memory_bytes=200 * MIB, wall_s=280))
    assert result.memory_exceeded and not result.timed_out and result.signal == signal.SIGKILL and result.stdout == ""


def test_memory_no_process_holds(box):
    """Files in memory count: the writable folders have a size, and anonymous files and segments can't be made."""
    result = box.run("""
import ctypes, os
total = 0
for folder in ("/tmp", "/dev/shm"):
    for i in range(10000):
        try:
            with open(f"{folder}/{i}", "wb") as f:
                total += f.write(bytes(1 << 20))
        except OSError as e:
            print(folder, e.errno)
            break
print(6 <= total >> 20 <= 8)
libc = ctypes.CDLL(None, use_errno=True)
try: print("memfd", os.memfd_create("x"))
except OSError as e: print("memfd", e.errno)
print("shm", libc.shmget(0, 1 << 20, 0o1600), ctypes.get_errno())
""", limits=Limits(file_bytes=4 * MIB))
    assert result.stdout.splitlines() == ["/tmp 28", "/dev/shm 28", "True", "memfd 1", "shm -1 1"], (result.stdout, result.stderr)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output(any_box, stream):
    result = any_box.run(f"import sys\nwhile True: sys.{stream}.write('y' * 5000)", limits=Limits(output_bytes=100_000))
    assert result.output_truncated and not result.ok and getattr(result, stream) == "y" * 100_000


def test_endless_sleep_and_endless_work(any_box):
    slept = any_box.run("import time; time.sleep(99)", limits=Limits(wall_s=0.5))
    assert slept.timed_out
    worked = any_box.run("while True: pass", limits=Limits(cpu_s=1, wall_s=60))
    assert worked.timed_out and worked.signal == signal.SIGXCPU


def test_endless_work_that_ignores_every_signal(boxes):
    code = "import signal\nfor s in range(1, 32):\n    if s not in (9, 19): signal.signal(s, signal.SIG_IGN)\nwhile True: pass"
    deaf = boxes("as_we_are").run(code, limits=Limits(cpu_s=1, wall_s=60))
    assert not deaf.ok and deaf.signal == signal.SIGKILL


def test_silent_sleeper_without_pipes(any_box):
    result = any_box.run("import os, time\nfor fd in range(3): os.close(fd)\ntime.sleep(99)", limits=Limits(wall_s=0.5))
    assert result.timed_out


def test_children_left_behind(any_box):
    """Daemons by the book: double fork, own session, pipes kept open. They die with the run, and don't hold it up."""
    marker = f"98765.{os.getpid()}{time.monotonic_ns()}"
    code = f"""
import os, sys
for own_pipes in (True, False):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if own_pipes:
                for fd in range(3): os.close(fd)
            os.execv("/bin/sleep", ["sleep", "{marker}"])
        os._exit(0)
print("parent done", flush=True)
"""
    result = any_box.run(code)
    assert result.ok and result.stdout == "parent done\n"  # had it waited for them, it would have run out of time
    assert gone(marker)


def test_stopped_children(any_box):
    """SIGSTOP must not save anyone from the end."""
    marker = f"87654.{os.getpid()}{time.monotonic_ns()}"
    result = any_box.run(f"""
import os, signal, time
if os.fork() == 0:
    os.setsid()
    os.execv("/bin/sleep", ["sleep", "{marker}"])
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGSTOP)
""", limits=Limits(wall_s=1))
    assert result.timed_out and gone(marker)


def test_network(box):
    """A listener of ours, by address and by abstract name, that a program outside does reach."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as local:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        name = f"fathom-test-{os.getpid()}-{time.monotonic_ns()}"
        local.bind("\0" + name)
        local.listen()
        code = f"""
import socket
for family, address in ((socket.AF_INET, ("127.0.0.1", {tcp.getsockname()[1]})), (socket.AF_UNIX, "\\0{name}")):
    try:
        with socket.socket(family) as s:
            s.settimeout(2)
            s.connect(address)
        print("reached")
    except OSError as e:
        print(type(e).__name__)
try: print(socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
except OSError as e: print(type(e).__name__)
print([n for _, n in socket.if_nameindex()])
"""
        outside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert outside.stdout.splitlines()[:2] == ["reached", "reached"]
        assert box.run(code).stdout.splitlines() == ["ConnectionRefusedError", "ConnectionRefusedError", "PermissionError", "['lo']"]


def test_file_escape(box, tmp_path):
    """Nothing of ours can be read, whatever its mode; nothing of the system can be written."""
    secret = Path("/tmp") / f"fathom-secret-{os.getpid()}-{time.monotonic_ns()}"
    secret.write_text("secret")
    secret.chmod(0o666)
    try:
        result = box.run(f"""
import os
for path in ("{secret}", "/etc/passwd", "/etc/shadow", "/proc/self/environ", "/home", "/var", "{Path.cwd()}/pyproject.toml", "/sys/kernel"):
    try:
        os.listdir(path) if path in ("/home", "/var", "/sys/kernel") else open(path).read()
        print("read", path)
    except OSError: pass
for path in ("/x", "/usr/x", "/usr/lib/x", "/etc/x", "/dev/x", "/bin/x", "/lib/x", "/dev/sda", "{secret}"):
    try:
        open(path, "a").write("x")
        print("wrote", path)
    except OSError: pass
print(os.getcwd(), sorted(os.listdir()))
""")
        assert result.stdout == f"wrote {secret}\n/tmp ['{secret.name}', 'main.py']\n", "only a file of that name in its own /tmp"
        assert secret.read_text() == "secret"
    finally:
        secret.unlink()


def test_symlink_tricks(any_box, tmp_path):
    """Links to the outside: dangling inside the walls, and never followed by our own cleaning up."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep.txt").write_text("keep")
    os.chmod(tmp_path, 0o755)
    result = any_box.run(f"""
import os
os.symlink("{outside}", "folder")
os.symlink("{outside}/keep.txt", "file")
os.symlink("/", "root")
os.makedirs("locked/inner")
os.symlink("{outside}", "locked/inner/link")
os.chmod("locked/inner", 0)
os.chmod("locked", 0)
print(os.path.exists("folder/keep.txt"), os.path.exists("root{outside}"))
""")
    assert result.ok, result.stderr
    if any_box.containment.strong:
        assert result.stdout == "False False\n"
    assert (outside / "keep.txt").read_text() == "keep"


def test_signals_to_the_parent(box):
    """It sees no process but its own; killing everyone it can, it kills itself."""
    result = box.run(f"""
import os, signal
print(os.getpid() < 10, os.getppid() < 10)
for pid in ({os.getpid()}, {os.getppid()}):
    try:
        os.kill(pid, 0)
        print("sees", pid)
    except ProcessLookupError: pass
for pid in range(1, 5000):
    if pid != os.getpid():
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
print("alone", flush=True)
os.kill(-1, signal.SIGKILL)
""")
    assert result.stdout == "True True\nalone\n"
    assert box.run("print('still here')").stdout == "still here\n"


def test_killing_the_guard_is_survived(any_box):
    """In the weaker mode the guard is an ordinary process: whoever kills it doesn't hang us."""
    code = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(os.getpid(), signal.SIGKILL)"
    result = any_box.run(code, limits=Limits(wall_s=5))
    assert not result.ok


def test_huge_files(any_box):
    result = any_box.run("""
import errno
try:
    with open("big", "wb") as f:
        for _ in range(100): f.write(bytes(1 << 20))
except OSError as e:
    print(errno.errorcode[e.errno])
try:
    with open("sparse", "wb") as f: f.truncate(1 << 40)
except OSError as e:
    print(errno.errorcode[e.errno])
""", limits=Limits(file_bytes=4 * MIB))
    assert result.stdout.split()[0] in ("EFBIG", "ENOSPC") and result.stdout.split()[1] == "EFBIG"


def test_no_privileges(box):
    """No uid 0, no way back to it, none of the system calls that make new worlds."""
    result = box.run("""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(os.getuid() != 0, os.geteuid() != 0, os.getgid() != 0, [g for g in os.getgroups() if g in (0, 1000)])
for call in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.chroot("/tmp"), lambda: os.mknod("/tmp/sda", 0o60666, 2048)):
    try:
        call()
        print("allowed")
    except OSError: pass
print(libc.unshare(0x10000000), libc.unshare(0x20000), libc.ptrace(16, 1, 0, 0), libc.mount(b"x", b"/tmp", b"tmpfs", 0, 0))
""")
    assert result.stdout.splitlines() == ["True True True []", "-1 -1 -1 -1"], (result.stdout, result.stderr)


def test_nothing_is_inherited(any_box):
    """No environment of ours, no open descriptor, no controlling terminal."""
    os.environ["FATHOM_TEST_SECRET"] = "x"
    try:
        result = any_box.run("""
import os
print(sorted(os.environ))
for fd in range(3, 64):
    try:
        os.fstat(fd)
        print("open", fd)
    except OSError: pass
try: print("terminal", os.open("/dev/tty", os.O_RDWR))
except OSError: print("no terminal")
""")
    finally:
        del os.environ["FATHOM_TEST_SECRET"]
    lines = result.stdout.splitlines()
    assert lines[0] == "['HOME', 'LANG', 'PATH', 'PYTHONHASHSEED', 'TMPDIR']" and lines[1:] == ["no terminal"], (lines, result.stderr)


def test_killing_us_kills_it(tmp_path, boxes):
    """SIGKILL to the caller, which can't clean up: the program goes with it."""
    boxes("as_we_are")
    marker = f"76543.{os.getpid()}{time.monotonic_ns()}"
    program = "import sys\nfrom fathom.sandbox import Sandbox\nSandbox().run(['/bin/sleep', sys.stdin.readline()])"
    caller = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, text=True)
    try:
        caller.stdin.write(marker)
        caller.stdin.close()
        deadline = time.monotonic() + 60
        while not processes(marker) and caller.poll() is None and time.monotonic() < deadline:  # only the sleeper's own command line holds it
            time.sleep(0.02)
        assert processes(marker)
    finally:
        caller.kill()
        caller.wait()
    assert gone(marker)
