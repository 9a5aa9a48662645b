"""Settings of the memory allocator for long computations."""

import contextlib
import ctypes
from collections.abc import Iterator

# Parameters of mallopt, and the largest values that glibc chooses for them (mallopt(3)).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_USUAL_TRIM_THRESHOLD, _USUAL_MMAP_THRESHOLD = 64 << 20, 32 << 20
_LARGEST = 2**31 - 1


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Reuse the memory of freed tensors for later ones while the context lasts.

    Each training step frees and allocates the same large tensors. By default the memory returns to
    the system each time and is allocated again as cleared pages, which takes up to a fifth of the
    step. The memory is returned to the system at the end. Without glibc nothing changes.
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
    except (OSError, TypeError):  # no shared libraries, or none with this name
        return None
    has_all = all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt"))
    return libc if has_all else None
