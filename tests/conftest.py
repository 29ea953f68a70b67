"""What all tests share: repeatable hypothesis runs, and how a test says that it needs a tool which not every machine has.

`@pytest.mark.needs("bwrap", "module:pyarrow")` names programs and Python modules. Without them the test is skipped by `make test`,
which is for everyone, and fails in `make check` (`--strict-tools`), where all of them should be.

The tests run in as many processes as there are cores (pytest-xdist), so each process, and whatever it starts, computes with one thread
unless a test says otherwise.
"""
import importlib.util
import os
import shutil
import signal

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when a test's module imports torch
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under `make test &`: what tests start would be deaf to their Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time: a red test stays red for whoever looks at it. No deadline: machines are shared and slow at times.
settings.register_profile("fathom", derandomize=True, deadline=None)
settings.load_profile("fathom")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strict-tools", action="store_true", help="fail, rather than skip, a test whose program or module is missing")


@pytest.hookimpl(trylast=True)  # when those that weren't asked for are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that may take longest come first, so that none of them is what everybody waits for at the end."""
    longest: dict[object, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0), mark.args[0] if mark else 0)
    items.sort(key=lambda item: -longest[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [name for mark in item.iter_markers("needs") for name in mark.args if not present(name)]
    if missing and item.config.getoption("--strict-tools"):
        pytest.fail(f"needs {', '.join(missing)}", pytrace=False)
    elif missing:
        pytest.skip(f"needs {', '.join(missing)}")


def present(name: str) -> bool:
    """Whether a program is on the path, or for "module:NAME" whether that module is installed."""
    if name.startswith("module:"):
        return importlib.util.find_spec(name.removeprefix("module:")) is not None
    return shutil.which(name) is not None
