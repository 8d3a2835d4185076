"""Memory allocator settings."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Constants from glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next feature maps.

    By default it returns every block above 32 MB to the system, which then zeroes new blocks page by page: about a
    seventh of a frozen epoch's time on a CPU. Peak memory grows by up to an eighth. No effect with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
