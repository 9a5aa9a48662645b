"""The files of prepared images: whose they are, and which of them nobody needs any more.

A process that prepares images holds a lock on the file it writes. A file that no manifest names
and nobody holds is a leftover of one that was interrupted. The names of all of them bear a token,
so nothing else that lies beside them is ever removed.
"""

import hashlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from attractor_ae._errors import AttractorError
from attractor_ae.data.decoding import displayed

if sys.platform != "win32":
    import fcntl

CACHE_VARIABLE = "ATTRACTOR_AE_CACHE"
"""Environment variable that names the folder of prepared images."""

MANIFEST = "manifest.json"
"""Name of the file that says which files count, and what they were made of."""

_MADE_HERE = re.compile(r"(images|labels|manifest)-([0-9a-f]{16})\.(npy|json)")
_DAY = 86_400


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return what the manifest of a folder says, or None if there is none that can be right."""
    try:
        values = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("broken"), list):
        return None
    token = values.get("token")
    if not isinstance(token, str) or not _MADE_HERE.fullmatch(f"images-{token}.npy"):
        return None
    return values


@contextmanager
def claimed(folder: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Give a new file for images, with its token, that no other process takes for a leftover.

    When the block has ended, files of this token are removed unless the manifest names it.
    """
    while True:
        token = secrets.token_hex(8)
        path = folder / f"images-{token}.npy"
        with writing(path):
            file = path.open("xb")
        _lock(file)
        if path.exists():  # else it was taken for a leftover before it was locked
            break
        file.close()
    try:
        with file:
            yield file, token
    finally:
        if (read_manifest(folder) or {}).get("token") != token:
            for made in (*folder.glob(f"*-{token}.*"), path):
                _remove(made)


def _lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed or the process ends; return whether that was possible."""
    if sys.platform == "win32":  # there a file that is open cannot be removed anyway
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: what is old is taken for a leftover
        return time.time() - os.fstat(file.fileno()).st_mtime > _DAY
    return True


def sweep(folder: Path, keep: str = "") -> int:
    """Remove files that no manifest names and no process is writing; return their bytes."""
    freed = 0
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return 0
    found = [match for match in map(_MADE_HERE.fullmatch, names) if match]
    for token in {match[2] for match in found} - {keep}:
        images = folder / f"images-{token}.npy"
        try:
            with images.open("r+b") as file:
                if not _lock(file):
                    continue
        except FileNotFoundError:
            pass
        except OSError:
            continue
        # Only now: it may have been published while it was locked.
        if (read_manifest(folder) or {}).get("token") == token:
            continue
        for match in found:
            if match[2] == token:
                freed += _remove(folder / match[0])
    return freed


def _remove(path: Path) -> int:
    """Remove a file if that is possible, and return the bytes that were freed."""
    size = size_of(path)
    try:
        path.unlink()
    except OSError:  # gone already; or still open, which some systems do not allow
        return 0
    return size


def size_of(path: Path) -> int:
    """Return the bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make one line of what the system says when ``path`` cannot be written."""
    # Not storage.cannot_write: that imports torch, and knows no other folder to name.
    try:
        yield
    except OSError as error:
        raise AttractorError(
            f"{displayed(error.filename or path)}: cannot be written "
            f"({error.strerror or error}); free space, or choose another folder for prepared "
            f"images with {CACHE_VARIABLE}"
        ) from None


def file_name(name: str) -> str:
    """Return a name that every file system takes, the name itself if it is of that kind."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:60].lstrip(".")
    if plain == name:
        return plain
    return f"{plain}-{digest(name.encode(errors='surrogatepass'))[:8]}"


def digest(data: bytes) -> str:
    """Return 32 hexadecimal digits that tell these bytes from others."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
