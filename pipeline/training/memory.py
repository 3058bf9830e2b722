"""A setting of the memory allocator, for speed; it does not change results."""

import ctypes
import sys
from functools import cache
from typing import Any


@cache
def keep_freed_memory() -> None:
    """Have glibc, where it is the C library, keep up to 1 GiB of what this process frees.

    A training step needs the memory that the step before freed. Large blocks (images of 60 or 112
    pixels) glibc would return to the system each time, and getting them anew takes about a tenth of
    a step. See mallopt(3).
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)  # the largest value that mallopt accepts
