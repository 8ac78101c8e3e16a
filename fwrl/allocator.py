"""How this process keeps memory that it has freed."""

import ctypes
import sys

# The parameters of glibc's mallopt, and the most that the first of them may be.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> None:
    """Give tensors up to 32 MiB memory that was used before, and give none back until the end.

    By default glibc maps large blocks anew each time, and the kernel then clears every page: for
    states of some megabytes that took longer than to compute them. Elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    # musl has no such function
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        libc.mallopt(TRIM_THRESHOLD, 2**30)
