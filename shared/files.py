"""Files that are whole after a crash, and errors about them that say what to do.

    files.write(file, data)     # the old file or the new one, never half of it

A machine that runs out of memory can reset hard, and what was not synced then comes back as zeros. So data is
synced before the rename that makes it visible, and the folder after it.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from shared import paths
from shared.errors import LabError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM)


def write(file: Path, data: bytes) -> None:
    """Replace a file as a whole. Raises LabError if the disk is full or the folder can't be written."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with staged(file, data) as temporary:
            commit(temporary, file)


@contextlib.contextmanager
def staged(file: Path, data: bytes) -> Iterator[Path]:
    """The data in a temporary file beside `file`, on the disk already; gone again unless it was committed."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def commit(temporary: Path, file: Path) -> None:
    """Let the temporary file take the place of `file`, for good."""
    temporary.rename(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as e:
        if e.errno != errno.EINVAL:  # a file system that has no such thing as syncing a folder
            raise
    finally:
        os.close(folder)


def unused(file: Path) -> Path:
    """A name for what is put aside: this one with the time, and a number if that is taken too."""
    stamped = f"{file.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = file.with_name(stamped), 1
    while path.exists() or path.with_name(path.name + ".json").exists():
        number += 1
        path = file.with_name(f"{stamped}-{number}")
    return path


@contextlib.contextmanager
def writing(file: Path, what: str = "") -> Iterator[None]:
    """Say a failed write as a LabError: what could not be written, why, and what to do."""
    try:
        yield
    except OSError as e:
        raise LabError(f"{what or paths.show(file)} can't be written: {e.strerror}.", _fix(e, file)) from None


def _fix(e: OSError, file: Path) -> str:
    elsewhere = "or choose another folder: export LABS_RESULTS=~/results"
    place = next(folder for folder in file.parents if folder.exists())
    if e.errno in FULL:
        return (
            f"free some space (`df -h {paths.show(place)}` tells how much there is), then do it again; "
            "what was written before is whole"
        )
    if e.errno in FORBIDDEN and place.stat().st_uid != os.geteuid():
        return f'it belongs to {place.owner()}: sudo chown -R "$USER" {paths.show(place)}; {elsewhere}'
    if e.errno in FORBIDDEN:
        return f"chmod -R u+rwX {paths.show(place)}; {elsewhere}"
    return f"look at the disk of {paths.show(place)}; {elsewhere}"


@contextlib.contextmanager
def exclusive(file: Path, waiting: str) -> Iterator[None]:
    """Hold the lock of this file; if another program has it, say `waiting` and wait. Any death frees it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(waiting, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def held(file: Path) -> bool:
    """Whether somebody is inside `exclusive` of this file now."""
    try:
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
