"""The sandbox's manners: results that say what happened, errors that say what is wrong, walls that are tried before they are trusted."""
import json
import os
import resource
import struct
import threading
from pathlib import Path

import pytest

from fathom.errors import UserError
from fathom.sandbox import Containment, Limits, Program, Sandbox, SandboxError, box, bubblewrap, cgroups, run


@pytest.fixture
def here(boxes):
    return boxes("as_we_are")


def test_an_ordinary_program(any_box):
    result = any_box.run("import helper, sys\nprint(helper.twice(input()))\nprint('aside', file=sys.stderr)\nsys.exit(3)",
                         files={"helper.py": "def twice(s): return s + s", "data/deep.txt": "x"}, stdin="añb\n")
    assert (result.exit_status, result.signal, result.stdout, result.stderr) == (3, None, "añbañb\n", "aside\n")
    assert not result.ok and not (result.timed_out or result.output_truncated or result.memory_exceeded) and 0 < result.wall_s < 20


def test_an_argument_list(here):
    result = here.run(["/bin/sh", "-c", "cat; echo $0 $1; pwd", "a b", "*"], stdin="in ")
    assert result.ok and result.stdout == "in a b *\n/tmp\n"


def test_a_program_that_closes_its_input_or_never_reads_it(here):
    assert here.run("import sys; sys.stdin.close(); print(1)", stdin="x" * 3_000_000).stdout == "1\n"
    assert here.run("print(2)", stdin="x" * 3_000_000).stdout == "2\n"
    assert here.run("import sys; print(len(sys.stdin.read()))", stdin="x" * 3_000_000).stdout == "3000000\n"


def test_bytes_that_are_no_text(here):
    assert here.run(r"import os; os.write(1, b'a\xff\xfeb')").stdout == "a��b"


def test_signals_and_reasons(here):
    died = here.run("import os; os.kill(os.getpid(), 11)")
    assert (died.exit_status, died.signal, died.reason()) == (None, 11, "ended by signal 11")
    assert here.run("1/0").reason() == "exit status 1: ZeroDivisionError: division by zero"
    assert here.run("pass").reason() == "ok"


def test_only_the_standard_library(here):
    """What happens to be installed beside us must not change a verdict."""
    assert here.run("import json, sqlite3, csv, heapq; print('fine')").stdout == "fine\n"
    assert "ModuleNotFoundError" in here.run("import numpy").stderr


def test_hashes_don_t_change_between_runs(here):
    assert len({here.run("print(hash('a'), list({'b', 'c', 'd', 'e'}))").stdout for _ in range(4)}) == 1


def test_many_threads(here):
    """Results don't cross, and nothing leaks: no descriptor, no thread, no process group left."""
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    programs = [Program(f"print({n} * 2)", stdin=str(n)) for n in range(24)]
    assert [r.stdout for r in here.run_all(programs, workers=4)] == [f"{2 * n}\n" for n in range(24)]
    assert len(os.listdir("/proc/self/fd")) == before and threading.active_count() <= threads
    assert not leftover_groups()


def leftover_groups():
    return [str(p) for p in Path("/sys/fs/cgroup").rglob(f"fathom-{os.getpid()}-*")]


@pytest.mark.parametrize("limit", [
    {"wall_s": 0}, {"cpu_s": -1}, {"pids": 1.5}, {"memory_bytes": True}, {"memory_bytes": 1 << 20}, {"file_bytes": "9"},
])
def test_impossible_limits(limit):
    with pytest.raises(UserError, match=next(iter(limit))):
        Limits(**limit)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", ".", "a\0b", "main.py"])
def test_file_names_that_lead_outside(here, name):
    with pytest.raises(UserError, match="sandbox file"):
        here.run("print(1)", files={name: "x"})


@pytest.mark.parametrize("argv", [[], ["ls"], ["./x"]])
def test_programs_without_a_place(here, argv):
    with pytest.raises(UserError, match="absolute"):
        here.run(argv)


def test_a_program_that_is_not_there_is_our_trouble_not_a_verdict(here):
    with pytest.raises(SandboxError, match="No such file"):
        here.run(["/usr/bin/no-such-program"])


def test_missing_bubblewrap_names_the_remedy(monkeypatch):
    monkeypatch.setattr(bubblewrap, "SEARCH", ("/nowhere",))
    with pytest.raises(UserError) as e:
        Sandbox()
    assert "not installed" in str(e.value) and "install bubblewrap" in str(e.value) and "weaker" in str(e.value)


@pytest.mark.parametrize("script", ["echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "exit 0", "sleep 0.1; kill -9 $$"])
def test_a_kernel_that_refuses_is_found_before_any_program_runs(tmp_path, script):
    """bubblewrap is there but can't do its work: said with its own words, and nothing weaker is tried."""
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    for path in (fake, tmp_path):
        path.chmod(0o755)
    with pytest.raises(UserError, match="does not work here") as e:
        Sandbox(bwrap=str(fake))
    assert "\n" not in str(e.value) and "weaker mode by name" in str(e.value)
    if "echo" in script:
        assert "No permissions to create new namespace" in str(e.value)


def test_unknown_mode():
    with pytest.raises(UserError, match="bubblewrap, limits"):
        Sandbox("none")


def test_every_result_says_how_it_was_held(here, boxes):
    assert here.run("pass").containment is here.containment and here.containment.strong
    weak = Containment("limits", "rlimit", "rlimit")
    assert not weak.strong and weak.describe().startswith("WEAKER") and not here.containment.describe().startswith("WEAKER")
    assert boxes("no_cgroup").containment.memory == "rlimit"
    assert boxes("weak").containment.mode == "limits"


def test_the_module_function(here):
    assert run("print(input())", stdin="x").stdout == "x\n"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_the_filter_is_a_well_formed_program(machine):
    """Every jump lands inside, every path ends in a verdict."""
    code = bubblewrap.seccomp_filter(machine)
    if machine == "riscv64":
        assert code is None
        return
    steps = list(struct.iter_unpack("=HBBI", code))
    assert len(steps) < 4096 and steps[-1][0] == 0x06
    for at, (op, yes, no, _) in enumerate(steps):
        if op & 7 == 5:  # a jump
            assert at + 1 + max(yes, no) < len(steps)


def judged(machine, number, first_argument=0):
    """What the filter says of a system call, by a small interpreter of its language."""
    steps = list(struct.iter_unpack("=HBBI", bubblewrap.seccomp_filter(machine)))
    data = {0: number, 4: bubblewrap.ARCHITECTURES[machine][1], 16: first_argument}
    at = held = 0
    while True:
        op, yes, no, k = steps[at]
        at += 1
        if op == 0x20:
            held = data[k]
        elif op == 0x06:
            return k
        else:
            at += yes if {0x15: held == k, 0x35: held >= k, 0x45: bool(held & k)}[op] else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_forbids_what_it_lists_and_nothing_else(machine):
    column = bubblewrap.ARCHITECTURES[machine][0]
    forbidden = {numbers[column] for numbers in bubblewrap.FORBIDDEN.values()}
    for number in range(460):
        if number == bubblewrap.CLONE3[column]:
            assert judged(machine, number) == 0x00050000 | 38
        elif number == bubblewrap.CLONE[column]:
            assert judged(machine, number, 17) == 0x7FFF0000 and judged(machine, number, 17 | 0x10000000) == 0x00050001
        else:
            assert judged(machine, number) == (0x00050001 if number in forbidden else 0x7FFF0000), number
    assert judged(machine, 0x40000001) == 0x00050000 | 38


def make_like_the_kernel(monkeypatch, files):
    """mkdir in a control-group file system brings the control files with it."""
    plain = Path.mkdir

    def mkdir(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        if self.name.startswith("fathom-"):
            for name in files:
                (self / name).write_text("")
    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", lambda self: __import__("shutil").rmtree(self))


def test_control_groups_version_2(tmp_path, monkeypatch):
    """No version 2 tree with controllers to be had here: a folder that behaves like one."""
    (tmp_path / "user.slice/session").mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/user.slice/session\n")
    assert cgroups.find_tree(tmp_path, own) is None, "a plain folder has no control files and limits nothing"
    assert not list(tmp_path.rglob("fathom-*"))
    files = ["memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.procs", "memory.events"]
    make_like_the_kernel(monkeypatch, files)
    tree = cgroups.find_tree(tmp_path, own)
    assert tree == cgroups.Tree(2, tmp_path / "user.slice/session", tmp_path / "user.slice/session")
    group = cgroups.Group(tree, 77 << 20, 9)
    assert group.make()
    group.add(1234)
    read = {name: (group.memory / name).read_text() for name in files}
    assert [read[n] for n in ("memory.max", "pids.max", "cgroup.procs", "memory.oom.group")] == [str(77 << 20), "9", "1234", "1"]
    assert not group.out_of_memory()
    (group.memory / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert group.out_of_memory()
    assert group.remove() and not group.memory.exists()


def test_groups_of_the_dead_are_swept(tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.write_text("0::/\n")
    make_like_the_kernel(monkeypatch, ["memory.max", "pids.max"])
    (tmp_path / "fathom-4194999-abc").mkdir()  # beyond the largest pid
    (tmp_path / f"fathom-{os.getpid()}-abc").mkdir()
    assert cgroups.find_tree(tmp_path, own)
    assert [p.name for p in tmp_path.glob("fathom-*")] == [f"fathom-{os.getpid()}-abc"]


def test_a_group_that_vanishes_is_trouble_not_a_verdict(here, monkeypatch):
    if here.containment.memory != "cgroup":
        pytest.skip("no control groups here")
    monkeypatch.setattr(cgroups.Group, "make", lambda self: False)
    with pytest.raises(SandboxError, match="control groups"):
        here.run("print(1)")


def test_older_kernels_count_a_user_everywhere(here, monkeypatch):
    """Before Linux 5.14 a limit inside a namespace counts the user's other processes too, so they are added."""
    monkeypatch.setattr(here, "_userns", True)
    new = here._rlimits(Limits(pids=5), None, False)["RLIMIT_NPROC"]
    monkeypatch.setattr(box, "_kernel", lambda: (5, 10))
    old = here._rlimits(Limits(pids=5), None, False)["RLIMIT_NPROC"]
    assert new == (6, 6) and old[0] >= 6 + 1


@pytest.mark.check
def test_two_hundred_solutions_a_minute(here):
    """On two cores, by the processor time they take, which a busy machine doesn't change: two cores have 120 seconds a minute."""
    code = "import json, sys\ncases = json.loads(sys.stdin.read())\nprint(json.dumps([sorted(c)[len(c) // 2] for c in cases]))"
    cases = json.dumps([[(i * j) % 97 for i in range(50)] for j in range(40)])
    spent = lambda: sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    before = spent()
    results = list(here.run_all([Program(code, stdin=cases)] * 60, workers=2))
    assert all(r.ok for r in results) and 0 < (spent() - before) / 60 <= 120 / 200
