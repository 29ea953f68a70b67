"""Compiling the native kernels: `make setup` does it, `fathom doctor --build` for those who installed with pip.

One source (src/isa.cpp) is compiled once for each instruction set with the flags that allow it, the door to Python (src/binding.cpp)
once without any; all end up in one library. Which instruction set runs is decided when it is loaded (library.py), so a library built
here runs on a lesser machine. Its file name carries a hash of the sources, the flags, the compiler and torch's version, so a stale one
is never loaded. Without a compiler nothing is built, and everything works on the reference kernels, slower.
"""
from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ...errors import UserError

SOURCES = Path(__file__).parent / "src"
COMPILERS = ("g++", "clang++", "c++")
_AVX512F = ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
_AVX512 = (*_AVX512F, "-mavx512bf16")
ISA_FLAGS: dict[str, tuple[str, ...]] = {  # best first
    "amx": (*_AVX512, "-mamx-tile", "-mamx-bf16", "-DFATHOM_TILES"),
    "avx512": _AVX512,
    "avx512f": _AVX512F,  # without bf16: most servers before 2023
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}
EMULATED = {"amx_emulated": ("-DFATHOM_TILES", "-DFATHOM_TILES_EMULATED")}  # for tests: AMX's algorithms without its instructions
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")


def instruction_sets(machine: str | None = None) -> dict[str, tuple[str, ...]]:
    """Those that a compiler for this kind of processor can make, best first."""
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64")
    return ISA_FLAGS if x86 else {"portable": ()}


def find_compiler(wanted: str | None = None) -> str | None:
    """Path of a C++ compiler: the one named, or the first of the usual ones; None if there is none.

    Raises:
        UserError: the one named doesn't exist.
    """
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise UserError("compiler", wanted, "an installed C++ compiler", "install it, or name another")
        return found
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def library_file(folder: Path, isas: dict[str, tuple[str, ...]] | None = None) -> Path:
    """Where a library of today's sources, flags and torch lies in `folder`, whether or not it has been built."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    digest.update(repr((FLAGS, isas or instruction_sets(), torch.__version__, sysconfig.get_config_var("SOABI"))).encode())
    return folder / f"fathom_native-{digest.hexdigest()[:16]}.so"


def default_folder() -> Path:
    """Beside this file where that can be written (a checkout, a virtual environment), else the user's cache."""
    beside = Path(__file__).parent / "lib"
    return beside if os.access(beside.parent, os.W_OK) else Path.home() / ".cache" / "fathom"


def build(folder: Path, *, compiler: str | None = None, isas: dict[str, tuple[str, ...]] | None = None,
          say: Callable[[str], None] = lambda line: None) -> Path:
    """Builds the library unless it is there, and removes older ones.

    Args:
        isas: instruction sets and their flags; all that this kind of processor has unless given. One that the compiler doesn't know is left out.
        say: told what goes on, a line at a time.

    Returns:
        The library's file.

    Raises:
        UserError: no compiler, or it fails.
    """
    target = library_file(folder, isas)
    if target.exists():
        return target
    path = find_compiler(compiler)
    if path is None:
        raise UserError("compiler", None, f"none of {', '.join(COMPILERS)} is installed", "install g++, or go on with the reference kernels, slower")
    wanted = isas or instruction_sets()
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        say(f"compiling the native kernels with {path}: {', '.join(wanted)} (a minute)")
        known = [isa for isa, flags in wanted.items() if _run([path, *flags, "-E", "-x", "c++", os.devnull, "-o", os.devnull]) is None]
        jobs = {isa: [path, *FLAGS, *wanted[isa], f"-DFATHOM_ISA={isa}", "-c", str(SOURCES / "isa.cpp"), "-o", f"{scratch}/{isa}.o"] for isa in known}
        jobs["scratch"] = [path, *FLAGS, "-c", str(SOURCES / "scratch.cpp"), "-o", f"{scratch}/scratch.o"]
        jobs["binding"] = [path, *FLAGS, *_torch_flags(), "-DFATHOM_TABLES(F)=" + " ".join(f"F({isa})" for isa in known), "-c",
                           str(SOURCES / "binding.cpp"), "-o", f"{scratch}/binding.o"]
        _all(pool.map(_run, jobs.values()))
        made = Path(scratch) / target.name
        torch_lib = Path(torch.__file__).parent / "lib"
        _all([_run([path, "-shared", "-fopenmp", *(f"{scratch}/{name}.o" for name in jobs), f"-L{torch_lib}", "-lc10", "-ltorch", "-ltorch_cpu",
                    "-ltorch_python", "-o", str(made)])])
        made.replace(target)
    for old in folder.glob("fathom_native-*.so"):
        if old != target and isas is None:
            old.unlink()
    say(f"native kernels: {', '.join(known)}")
    return target


def _torch_flags() -> list[str]:
    include = Path(torch.__file__).parent / "include"
    flags = [f"-I{include}", f"-I{include}/torch/csrc/api/include", f"-I{sysconfig.get_paths()['include']}"]
    return [*flags, f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]


def _run(command: Sequence[str]) -> str | None:
    """The compiler's complaint, or None."""
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr or f"exit status {done.returncode}"


def _all(complaints: object) -> None:
    for complaint in list(complaints):  # type: ignore[call-overload]
        if complaint:
            lines = [line for line in complaint.splitlines() if "error" in line.lower()] or complaint.splitlines()
            raise UserError("compiler", None, f"failed: {lines[0].strip()}", "send us this line, and go on with the reference kernels, slower")
