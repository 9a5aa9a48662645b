"""Settings of the memory allocator for long computations."""

import contextlib
import ctypes
from collections.abc import Iterator

# Parameters of mallopt, and the largest values to which glibc adjusts them by itself (mallopt(3)).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_USUAL_TRIM_THRESHOLD, _USUAL_MMAP_THRESHOLD = 64 << 20, 32 << 20
_LARGEST = 2**31 - 1


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep the memory of freed tensors for the next ones while the context lasts.

    A training step frees and allocates the same large tensors again and again. Given back to the
    system each time, their memory comes back page by page, cleared, which takes up to a fifth of
    the step. What was kept is given back at the end. Without glibc nothing happens.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
    libc.mallopt(_TRIM_THRESHOLD, _LARGEST)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # no shared libraries here, or not by this name
        return None
    has_all = all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt"))
    return libc if has_all else None
