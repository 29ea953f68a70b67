"""A folder that belongs to one process at a time.

The prefix cache's disk tier and the journal keep what they know of their files in memory, so a second process on the same folder
would be blind to the first. The owner holds a lock on a file in the folder; the system lets go of it when the process ends, however
it ends, so a kill leaves nothing to tidy up. (A lock of the system rather than a file that holds a process id: ids are used again.)

It also keeps a wrong path from doing harm: a folder that holds anything else is refused, so files are only ever deleted in a folder
made for them. The folder is made readable for its owner alone: what lies in it was computed from users' texts.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ..errors import UserError


def claim(folder: Path, what: str, ours: Callable[[str], bool]) -> IO[str]:
    """Makes the folder if need be and takes it for this process. Closing the returned file gives it back.

    Args:
        what: the noun that lives there, such as "prefix cache"; the lock file is named after it.
        ours: whether a file name is one that this noun makes; a folder without the lock file may hold nothing else.

    Raises:
        UserError: the folder can't be used, holds other files, or is in use; its field is `what` + " folder".
    """
    try:
        import fcntl
    except ImportError:
        raise UserError(f"{what} folder", folder, "needs file locks, which this system doesn't have", "run without it") from None
    lock = folder / f"{what.replace(' ', '-')}.lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        strangers = [] if lock.exists() else [name for name in os.listdir(folder) if not ours(name)]
        if strangers:
            raise UserError(f"{what} folder", folder, f"holds other files, such as {min(strangers)}", "give a folder of its own")
        handle = open(lock, "a+", encoding="utf-8")
    except OSError as e:
        raise UserError(f"{what} folder", folder, f"can't be used ({e.strerror or e})", "give another folder") from e
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
    except BlockingIOError:
        handle.seek(0)
        holder = handle.read().strip()
        handle.close()
        raise UserError(f"{what} folder", folder, f"is in use by process {holder or 'unknown'}", "stop it or give another folder") from None
    except OSError as e:
        handle.close()
        raise UserError(f"{what} folder", folder, f"can't be locked ({e.strerror or e})", "give a folder on a local disk") from e
    return handle
