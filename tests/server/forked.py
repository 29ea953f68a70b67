"""A service that can be killed and started again in a second: a process that has imported everything forks one each time.

The program (python -m tests.server.forked LOG) reads the arguments of `fathom`, a JSON list a line; for each it forks a process that
runs that command with its output in LOG, prints its number, and when it has died prints how. The parent of the services computes
nothing and has no threads, so a fork of it is what a fresh process would be.
"""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.server.live import OPTIONS, Live

ROOT = Path(__file__).parents[2]


class Forked(Live):
    """A service on one folder, whichever process runs it. up: started and not yet killed."""

    def __init__(self, model: Path, folder: Path, *options: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        program = subprocess.Popen([sys.executable, "-m", "tests.server.forked", str(folder / "printed.log")], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        super().__init__(program, folder, folder / "printed.log")
        self._arguments = ["serve", "--model", model, "--folder", folder, *OPTIONS, *options]
        self._port, self._number = 0, 0

    def start(self) -> None:
        """A new process, on the same port each time; back when it takes requests."""
        self.log_file.write_text("")
        assert self.process.stdin and self.process.stdout
        print(json.dumps([*map(str, self._arguments), "--port", str(self._port)]), file=self.process.stdin, flush=True)
        self._number = int(self.process.stdout.readline())
        self.wait()
        self._port = int(self.url.rpartition(":")[2])

    def end(self, how: int = signal.SIGKILL) -> int:
        """Kills the process, and waits until it is gone; gives its status: 0 if it ended by itself, -9 if it was killed."""
        os.kill(self._number, how)
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """Ends the program; the service must have ended before."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(20)


def main(log: str) -> None:
    import fathom.cli
    import fathom.server.app
    import fathom.server.command

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            fathom.cli.main(json.loads(line))
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
