"""Write files that stay whole after a crash, turn failed writes into a LabError with a fix, and lock files.

    files.write(file, data)     # the old file or the new one, never half of it

A machine that runs out of memory can reset hard, and unsynced data then comes back as zeros. So the data is synced
before the rename that makes it visible, and the folder after it.
"""

import contextlib
import errno
import functools
import os
import pwd
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

from shared import paths
from shared.errors import LabError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM)
# Some network file systems have no locks. Others lock only a file that is open for writing (EBADF).
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
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
    in_cache = file.is_relative_to(paths.cache())
    elsewhere = (
        f"or choose another folder: export {'LABS_CACHE=~/labs-cache' if in_cache else 'LABS_RESULTS=~/results'}"
    )
    place = nearest(file.parent)
    if e.errno in FULL:
        left = f"`df -h {_typed(place)}` shows how much is left"
        return f"free some space ({left}) and repeat; files written earlier are intact"
    if e.errno in FORBIDDEN:
        closed = file if os.path.exists(file) and not os.access(file, os.W_OK) else place
        return f"{_opening(closed, paths.cache() if in_cache else paths.results())}; {elsewhere}"
    return f"check the disk that holds {_typed(place)}; {elsewhere}"


def nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists and can be seen. (Path.exists raises below a closed folder.)"""
    return next(one for one in (folder, *folder.parents) if os.path.exists(one))


def _opening(closed: Path, folder: Path) -> str:
    """How its user gets the right to write to `closed`, which is in `folder` (the cache, the results) or above it."""
    uid = closed.stat().st_uid
    if uid == os.geteuid():
        return f"chmod -R u+rwX {_typed(closed)}"
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:  # as where a container wrote it
        owner = f"user {uid}, who has no name here"
    if closed.is_relative_to(folder) or closed.is_relative_to(paths.REPO):
        return f'{_typed(closed)} belongs to {owner}: sudo chown -R "$USER" {_typed(closed)}'
    # A folder of others is never to be handed over as a whole.
    made = f'sudo mkdir -p {_typed(folder)} && sudo chown "$USER" {_typed(folder)}'
    return f"{_typed(closed)} belongs to {owner}: {made}"


def _typed(path: Path) -> str:
    """The path as it can be typed in a shell."""
    shown = paths.show(path)
    return shown if shlex.quote(shown.removeprefix("~")) == shown.removeprefix("~") else shlex.quote(str(path))


@contextlib.contextmanager
def exclusive(file: Path, waiting: str, what: str = "") -> Iterator[None]:
    """Hold the lock of `file`. If another program holds it, print `waiting` and wait.

    The kernel frees the lock when its holder ends, even if it is killed; the lock file stays. Several users can share
    it: whoever may not write to it locks it all the same. On a file system without locks, the first use in a folder
    prints a warning, and the body runs without a lock.

    Raises LabError, with `what` as its subject, if the lock file can't be made.
    """
    with contextlib.ExitStack() as stack:
        with writing(file, what):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = _open(file)
            stack.callback(os.close, lock)
            try:
                if not _soon(lock):
                    print(waiting, flush=True)
                    lock_descriptor(lock)
                stack.callback(unlock_descriptor, lock)
            except OSError as e:
                if e.errno not in NO_LOCKS:
                    raise
                _warn(file.parent)
        yield


_measurements = 0  # that run in this process, one inside of the other


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """Hold the lock of measurements, so that none of another program disturbs this one.

    Inside of another measurement of this process the lock is held already.
    """
    global _measurements
    with contextlib.ExitStack() as stack:
        if not _measurements:
            waiting = "Another measurement is running on this machine; waiting for it ..."
            stack.enter_context(exclusive(paths.measuring(), waiting))
        _measurements += 1
        try:
            yield
        finally:
            _measurements -= 1


def _open(file: Path) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        if e.errno not in (*FORBIDDEN, errno.EROFS) or not os.access(file, os.R_OK):
            raise
        return os.open(file, os.O_RDONLY)


def _soon(lock: int) -> bool:
    """Take the lock if it is free, or becomes free in a moment."""
    deadline = time.monotonic() + GLANCE_S
    while not lock_descriptor(lock, blocking=False):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@functools.cache  # one warning for each folder
def _warn(folder: Path) -> None:
    print(
        f"The file system of {paths.show(folder)} has no file locks. Run only one set-up and one notebook at a time, "
        "because they can't wait for each other.",
        file=sys.stderr,
        flush=True,
    )


def locks_work(folder: Path) -> bool | None:
    """Whether files in this folder, which need not exist yet, can be locked. None if no file can be written there."""
    try:
        with tempfile.TemporaryFile(dir=nearest(folder)) as file:
            return lock_descriptor(file.fileno(), blocking=False)
    except OSError as e:
        return False if e.errno in NO_LOCKS else None


def held(file: Path) -> bool:
    """Whether a program is inside `exclusive` of this file now. Holders are not disturbed, and no file is created.

    Two calls at the same moment may take each other for a holder, so repeat it before giving up anything. False on a
    file system without locks.
    """
    try:
        with file.open("r+b" if os.access(file, os.W_OK) else "rb") as lock:
            return not lock_descriptor(lock.fileno(), blocking=False)
    except OSError:
        return False
