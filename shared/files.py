"""Write files that stay whole after a crash, turn failed writes into a LabError with a fix, and lock files.

    files.write(file, data)     # the old file or the new one, never half of it

A machine that runs out of memory can reset hard, and unsynced data then comes back as zeros. So the data is synced
before the rename that makes it visible, and the folder after it.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

from shared import paths
from shared.errors import LabError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM)
GLANCE_S = 0.2  # `held` takes a lock for microseconds: a lock that is free again by then needs no message


def write(file: Path, data: bytes) -> None:
    """Replace the whole file. Raises LabError if the disk is full or the folder can't be written."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with staged(file, data) as temporary:
            commit(temporary, file)


@contextlib.contextmanager
def staged(file: Path, data: bytes) -> Iterator[Path]:
    """Write the data to a temporary file beside `file` and sync it. Delete it at the end unless it was committed."""
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
    """Replace `file` by the temporary file and sync the folder."""
    temporary.rename(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as e:
        if e.errno != errno.EINVAL:  # this file system can't sync a folder
            raise
    finally:
        os.close(folder)


def unused(file: Path) -> Path:
    """A free name for something set aside: `file` with the time, and a number if that name is taken too."""
    stamped = f"{file.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = file.with_name(stamped), 1
    while path.exists() or path.with_name(path.name + ".json").exists():
        number += 1
        path = file.with_name(f"{stamped}-{number}")
    return path


@contextlib.contextmanager
def writing(file: Path, what: str = "") -> Iterator[None]:
    """Turn a failed write into a LabError: what can't be written, why, and the fix."""
    try:
        yield
    except OSError as e:
        raise LabError(f"{what or paths.show(file)} can't be written: {e.strerror}.", _fix(e, file)) from None


def _fix(e: OSError, file: Path) -> str:
    variable = "LABS_CACHE=~/labs-cache" if file.is_relative_to(paths.cache()) else "LABS_RESULTS=~/results"
    elsewhere = f"or choose another folder: export {variable}"
    place = next(folder for folder in file.parents if folder.exists())
    if e.errno in FULL:
        left = f"`df -h {paths.show(place)}` shows how much is left"
        return f"free some space ({left}) and repeat; files written earlier are intact"
    if e.errno in FORBIDDEN and place.stat().st_uid != os.geteuid():
        return f'it belongs to {place.owner()}: sudo chown -R "$USER" {paths.show(place)}; {elsewhere}'
    if e.errno in FORBIDDEN:
        return f"chmod -R u+rwX {paths.show(place)}; {elsewhere}"
    return f"check the disk that holds {paths.show(place)}; {elsewhere}"


@contextlib.contextmanager
def exclusive(file: Path, waiting: str, what: str = "") -> Iterator[None]:
    """Hold the lock of `file`. If another program holds it, print `waiting` and wait.

    The kernel frees the lock when its holder ends, even if it is killed; the lock file stays. Raises LabError, with
    `what` as its subject, if the lock file can't be written.
    """
    lock = FileLock(file, fallback_to_soft=False)  # a soft lock is a file that a killed holder leaves behind
    with contextlib.ExitStack() as stack:
        with writing(file, what):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=GLANCE_S)
            except Timeout:
                print(waiting, flush=True)
                lock.acquire()
            stack.callback(lock.release)
        yield


def held(file: Path) -> bool:
    """Whether a program is inside `exclusive` of this file now. Holders are not disturbed, and no file is created.

    Two calls at the same moment may take each other for a holder, so repeat it before giving up anything.
    """
    try:
        with file.open("r+b" if os.access(file, os.W_OK) else "rb") as lock:
            return not lock_descriptor(lock.fileno(), blocking=False)
    except OSError:
        return False
