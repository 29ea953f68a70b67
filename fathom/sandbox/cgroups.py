"""Control groups, where this process may make them: one limit for all of a run's processes together, and word of an out-of-memory kill.

Both generations are handled. Version 1 has a tree per controller, and a child of our own group keeps our own limits in force. In version 2
processes may only live in leaves, so we climb from our group until one hands the memory and pids controllers to its children. Making
the group is the test: whatever fails means "not writable here", and the sandbox falls back to resource limits and says so.
"""
from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Tree:
    """Where groups can be made. memory and pids: parent folders (equal in version 2)."""

    version: int
    memory: Path
    pids: Path


def find_tree(root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Tree | None:
    """The tree in which a group with a memory and a process limit can really be made now, or None. Tries by making one."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
        paths = {name: path for _, names, path in lines for name in names.split(",")}
    except (OSError, ValueError):
        return None
    candidates = []
    if "memory" in paths and "pids" in paths:
        for climb in (True, False):  # our own group first, then the top (inside a container the path may not exist)
            at = {name: root / name / paths[name].lstrip("/") if climb else root / name for name in ("memory", "pids")}
            candidates.append(Tree(1, at["memory"], at["pids"]))
    if "" in paths:
        own_group = root / paths[""].lstrip("/")
        candidates += [Tree(2, folder, folder) for folder in (own_group, *own_group.parents) if folder == root or root in folder.parents]
    for tree in candidates:
        group = Group(tree, memory_bytes=1 << 30, pids=8)
        made = group.make()
        group.remove()
        if made:
            sweep(tree)
            return tree
    return None


def sweep(tree: Tree) -> None:
    """Remove the empty groups of processes that were killed before they could. Groups in use can't be removed: the kernel says no."""
    for parent in {tree.memory, tree.pids}:
        for folder in parent.glob("fathom-*-*"):
            owner = folder.name.split("-")[1]
            if owner.isdigit() and not Path("/proc", owner).exists():
                with suppress(OSError):
                    folder.rmdir()


class Group:
    """One run's group: `make`, `add` its first process, ask `out_of_memory`, `remove`."""

    def __init__(self, tree: Tree, memory_bytes: int, pids: int) -> None:
        self.tree, self.memory_bytes, self.pids_max = tree, memory_bytes, pids
        name = f"fathom-{os.getpid()}-{secrets.token_hex(6)}"
        self.memory, self.pids = tree.memory / name, tree.pids / name

    def make(self) -> bool:
        """Make the folders and set the limits; False where the system says no (what was made is left for `remove`)."""
        files = {self.pids / "pids.max": self.pids_max}
        if self.tree.version == 1:
            files[self.memory / "memory.limit_in_bytes"] = self.memory_bytes
            swap = {self.memory / "memory.memsw.limit_in_bytes": self.memory_bytes}  # memory + swap; must follow the memory limit
        else:
            files[self.memory / "memory.max"] = self.memory_bytes
            swap = {self.memory / "memory.swap.max": 0, self.memory / "memory.oom.group": 1}
        try:
            for folder in {self.memory, self.pids}:
                folder.mkdir()
            for path, value in files.items():
                set_value(path, value)
        except OSError:
            return False
        for path, value in swap.items():
            with suppress(OSError):  # kernels without swap accounting
                set_value(path, value)
        return True

    def add(self, pid: int) -> None:
        """Put a process, and all it will fork, under the limits. Raises OSError."""
        for folder in {self.memory, self.pids}:
            set_value(folder / "cgroup.procs", pid)

    def out_of_memory(self) -> bool:
        """Whether the kernel killed for memory in here."""
        name = "memory.oom_control" if self.tree.version == 1 else "memory.events"
        with suppress(OSError):
            for line in (self.memory / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def remove(self, patience_s: float = 2.0) -> bool:
        """Delete the folders once the kernel has let go of the dead (milliseconds after the kill). False if it would not in time."""
        deadline = time.monotonic() + patience_s
        left = [folder for folder in {self.memory, self.pids} if folder.is_dir()]
        while left:
            for folder in list(left):
                try:
                    folder.rmdir()
                except OSError:
                    if folder.is_dir():
                        continue
                left.remove(folder)
            if left and time.monotonic() > deadline:
                return False
            if left:
                time.sleep(0.002)
        return True


def set_value(path: Path, value: int) -> None:
    """Write one number to a control file that must exist already (in a plain folder nothing would be limited)."""
    with open(path, "r+") as f:
        f.write(str(value))
