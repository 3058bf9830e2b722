"""A small disk, which can be filled: a tmpfs."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = "1500m"


@contextmanager
def small_disk() -> Iterator[tuple[Path, bool]]:
    """A folder on a disk of its own; where this user may not mount one, an ordinary folder.

    Yields:
        The folder, which every user may enter, and whether it is such a disk.
    """
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", name]
        mounted = not subprocess.run(mount, capture_output=True, check=False).returncode
        folder.chmod(0o755)
        try:
            yield folder, mounted
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", name], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Fill the disk to its last byte, and make room again at the end of the `with` block."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        length, step = 0, 2**30
        while step:
            try:
                os.posix_fallocate(file.fileno(), length, step)
                length += step
            except OSError:
                step //= 2
    try:
        yield
    finally:
        filler.unlink()
