"""What pip installs is what the repository holds: every file of the package, presets and pages included, and nothing else."""
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fathom

ROOT = Path(__file__).parents[1]


@pytest.mark.check
def test_the_wheel_holds_the_package_and_starts(tmp_path):
    source = tmp_path / "source"
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.o")
    shutil.copytree(ROOT / "fathom", source / "fathom", ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "site")
    wanted = {path.relative_to(source).as_posix() for path in (source / "fathom").rglob("*") if path.is_file()}
    assert packed == wanted, f"missing {sorted(wanted - packed)}, too much {sorted(packed - wanted)}"

    site = str(tmp_path / "site")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import fathom, fathom.config; print(fathom.__file__, fathom.__version__)"
    done = subprocess.run([sys.executable, "-I", "-c", code, site], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith(site) and done.stdout.strip().endswith(fathom.__version__), done.stderr


def test_version_and_requirements_are_said_once():
    import tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and re.fullmatch(r"\d+\.\d+\.\d+", fathom.__version__)
    torch = re.search(r"^TORCH +\?= torch==(\d+\.\d+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert torch and f"torch>={torch[1]}" in project["project"]["dependencies"]
