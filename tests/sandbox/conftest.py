"""The ways into the sandbox. Every attack runs through each of them that this machine has.

as_we_are   the default of whoever runs the tests (root with control groups, in a container; a user without, at a desk)
no_cgroup   the same with resource limits only
userns      root that first becomes an unprivileged user
user        a complete other process of an ordinary user, where the tests run as root
weak        mode "limits";  weak_user: the same as an ordinary user
"""
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest

import fathom.errors
from fathom.errors import UserError
from fathom.sandbox import Limits, Sandbox
from fathom.sandbox.bubblewrap import own_python

STRONG, WEAK = ("as_we_are", "no_cgroup", "userns", "user"), ("weak", "weak_user")
DRIVER = Path(__file__).with_name("driver.py")
NOBODY = 64999


def unavailable(config, why):
    """No such way on this machine: a skip in `make test`, a failure in `make check`."""
    (pytest.fail if config.getoption("--strict-tools") else pytest.skip)(why)


@pytest.fixture(scope="session")
def readable_python():
    """An interpreter that an ordinary user can start, 3.11 or newer, or None."""
    for python in (own_python(), "/usr/bin/python3"):
        test = [python, "-S", "-c", "import json, resource, sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(test, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True).returncode == 0:
                return python
        except OSError:
            continue
    return None


@pytest.fixture(scope="session")
def public_copy():
    """The sandbox's code where an ordinary user can read it (pytest keeps its own temporary folders private)."""
    folder = Path(tempfile.mkdtemp(prefix="fathom-test-"))
    source = Path(fathom.errors.__file__).parent
    (folder / "fathom").mkdir()
    for name in ("__init__.py", "errors.py"):
        shutil.copy(source / name, folder / "fathom" / name)
    shutil.copytree(source / "sandbox", folder / "fathom" / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(DRIVER, folder / "driver.py")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class OtherUser:
    """A sandbox in a process of an ordinary user; `run` as Sandbox.run."""

    def __init__(self, python, folder, mode):
        command = [python, "-S", "driver.py", mode]
        self.process = subprocess.Popen(command, cwd=folder, user=NOBODY, group=NOBODY, extra_groups=[], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env={"PATH": "/usr/bin:/bin"})
        self.containment = self.ask({})

    def ask(self, order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise UserError(answer["error"])
        return type("Answer", (), answer)

    def run(self, what, *, files=None, stdin="", limits=None):
        return self.ask({"what": what, "files": files or {}, "stdin": stdin, "limits": asdict(limits or Limits())})

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(20) == 0
        self.process.stdout.close()


@pytest.fixture(scope="session")
def boxes(request):
    """One sandbox per way, made when first asked for."""
    made = {}

    def get(way):
        if way in ("userns", "user", "weak_user") and os.geteuid() != 0:
            pytest.skip("only root can become another user; as_we_are and weak are the ordinary user's ways")
        if way not in made:
            made[way] = make(way)
        if isinstance(made[way], str):
            unavailable(request.config, made[way])
        return made[way]

    def make(way):
        root = os.geteuid() == 0
        other = way in ("user", "weak_user")
        python = request.getfixturevalue("readable_python") if root and (other or way in ("userns", "weak")) else None
        if root and way not in ("as_we_are", "no_cgroup") and python is None:
            return "no Python 3.11 that an ordinary user can start"
        try:
            if other:
                return OtherUser(python, request.getfixturevalue("public_copy"), "limits" if way == "weak_user" else "bubblewrap")
            if way == "userns":
                return forced_userns(python)
            if way == "no_cgroup":
                return Sandbox(cgroup_root=None)
            return Sandbox("limits" if way == "weak" else "bubblewrap", python=python)
        except UserError as e:
            return str(e)

    yield get
    for box in made.values():
        if isinstance(box, OtherUser):
            box.close()


def forced_userns(python):
    """Root's second way in, even where the first works."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sandbox, "WAYS_OF_ROOT", (True,))
        return Sandbox(python=python)


@pytest.fixture(params=STRONG)
def box(request, boxes):
    """A strong sandbox, by every way."""
    return boxes(request.param)


@pytest.fixture(params=STRONG + WEAK)
def any_box(request, boxes):
    """Any sandbox, the weaker mode included."""
    return boxes(request.param)
