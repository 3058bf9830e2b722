"""A full disk: recognize it, and still close the runs in a SQLite store on it.

A small file beside the store keeps the room that closing a run takes. It is given up when the disk
is full.
"""

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 256 * 1024


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
    """Write the reserve beside a SQLite store, unless it is there or has no room.

    Args:
        store: the SQLite file of the store; None if it is another store, which needs no reserve.
    """
    if store is not None and not _reserve(store).exists():
        with suppress(OSError):
            _reserve(store).write_bytes(bytes(RESERVE_BYTES))


def with_reserve(store: Path | None, call: Callable[[], None]) -> None:
    """Call; if the disk is full, give up the reserve and call again.

    Args:
        store: the SQLite file of the store; None if it is another store.
    """
    try:
        call()
    except Exception as error:
        if store is None or not is_full_disk(error):
            raise
        _reserve(store).unlink(missing_ok=True)
        call()


def _reserve(store: Path) -> Path:
    return store.with_name(f"{store.name}.reserve")
