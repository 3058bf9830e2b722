"""A full disk: recognize it, and still close the runs in a SQLite store on it.

A file beside the store keeps the room that closing a run takes. It is given up in parts: the other
runs of a study go on for a moment when the first one is closed, and take what room there is.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 1024 * 1024
PART_BYTES = 128 * 1024


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error says, or comes from one that says, that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "disk is full" in str(error) or "No space left on device" in str(error):
            return True
        error = error.__cause__
    return False


def keep_reserve(store: Path | None) -> None:
    """Write the reserve beside a SQLite store, unless it is whole or has no room.

    Args:
        store: the SQLite file of the store; None if it is another store, which needs no reserve.
    """
    if store is not None and _size(_reserve(store)) < RESERVE_BYTES:
        with suppress(OSError):
            _reserve(store).write_bytes(bytes(RESERVE_BYTES))


def with_reserve(store: Path | None, call: Callable[[], None]) -> None:
    """Call; while the disk is full, give up a part of the reserve and call again.

    Args:
        store: the SQLite file of the store; None if it is another store.
    """
    while True:
        try:
            return call()
        except Exception as error:
            if store is None or not is_full_disk(error) or not _give_up(_reserve(store)):
                raise


def _give_up(reserve: Path) -> bool:
    """Give up a part of the reserve; whether there was one."""
    left = _size(reserve) - PART_BYTES
    if left > 0:
        os.truncate(reserve, left)
    else:
        reserve.unlink(missing_ok=True)
    return left >= 0


def _reserve(store: Path) -> Path:
    return store.with_name(f"{store.name}.reserve")


def _size(reserve: Path) -> int:
    return reserve.stat().st_size if reserve.exists() else 0
