"""A test that needs a missing tool is skipped for everyone and fails where tools are required. Files with long tests come first."""
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = '''
import pytest
@pytest.mark.needs("no-such-program-here")
def test_program(): pass
@pytest.mark.needs("module:no_such_module_here", "sh")
def test_module(): pass
@pytest.mark.needs("sh", "module:json")
def test_there(): pass
'''


def run(tmp_path, *options):
    (tmp_path / "test_tools.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest", *options, tmp_path / "test_tools.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout + done.stderr


def test_missing_tools_skip(tmp_path):
    code, said = run(tmp_path)
    assert code == 0 and "1 passed, 2 skipped" in said and "needs no-such-program-here" in said, said


def test_missing_tools_fail_when_they_are_required(tmp_path):
    code, said = run(tmp_path, "--strict-tools")
    assert code == 1 and "1 passed, 2 errors" in said and "needs module:no_such_module_here" in said, said


def test_files_with_long_tests_come_first(tmp_path):
    for name, marks in (("a", ""), ("b", "@pytest.mark.timeout(400)"), ("c", ""), ("d", "@pytest.mark.timeout(500)")):
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\ndef test_short(): pass\n{marks}\ndef test_other(): pass\n")
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest", "--collect-only", "-q", tmp_path]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True).stdout
    assert [Path(line.split("::")[0]).stem for line in said.splitlines() if line.endswith("::test_short")] == [f"test_{c}" for c in "dbac"], said
