"""Reading files, and writing them atomically.

A file is written under a temporary name and renamed, so it is either complete or missing. Nothing
is pickled, so reading a file cannot run code.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

from attractor_ae._errors import AttractorError

if TYPE_CHECKING:
    import torch

_REMEDIES = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "allow larger files (ulimit -f), or choose another folder",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space, or choose another folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "choose another folder or name"),
}
_REMEDY = "check its permissions, or choose another folder"

_OF_DAMAGED_JSON = (ValueError, TypeError, AttributeError, RecursionError)
_DIGEST = "sha256"  # key of the metadata, and prefix of its value
_NO_DIGEST = f"{_DIGEST}:{'0' * 64}"


@contextmanager
def atomic_path(path: Path, remedy: str = "") -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path``, and rename it when the block ends.

    If the block fails, ``path`` stays as it was and the temporary file is removed. A link stays a
    link. ``remedy`` ends the message if the file cannot be written.
    """
    real = Path(os.path.realpath(path))
    temporary = _temporary(real)
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        # Created with the permissions of the umask: some file systems refuse to change them.
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb+") as file:
            flush_to_disk(file)
        temporary.replace(real)
    except OSError as error:
        raise cannot_write(path, error, remedy) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_free(path: Path, again: bool) -> None:
    """Raise an AttractorError if an output file exists, unless it may be replaced."""
    if path.exists() and not again:
        raise AttractorError(f"{path}: exists; replace it with --again, or choose another --out")


@contextmanager
def temporary_folder(path: Path, remedy: str = "") -> Iterator[Path]:
    """Yield a new folder next to ``path``, for its future files; it is removed afterwards."""
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
    except OSError as error:
        raise cannot_write(path, error, remedy) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Lock an existing file or folder; a lock ends with its process, even if that is killed.

    Not on Windows, nor on file systems without locks.

    Raises:
        AttractorError: If another process has locked it, or has replaced it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        opened = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not os.path.samestat(os.fstat(opened), path.stat())
        except OSError as error:
            taken = error.errno in (errno.EWOULDBLOCK, errno.ENOENT)
        if taken:
            raise AttractorError(
                f"{path}: another process is writing there; wait until it has ended, or choose "
                "another --out"
            )
        yield
    finally:
        os.close(opened)


def remove_leftovers(folder: Path, seconds: float = 0, name: str = "") -> None:
    """Remove temporary files and folders of killed processes that are older than ``seconds``.

    ``name``: that of the file that was written; by default any.
    """
    pattern = rf"\.{re.escape(name[:40]) or '.*'}\.[0-9a-f]{{8}}\.tmp"
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if (seconds and age < seconds) or not re.fullmatch(pattern, path.name):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:40]}.{uuid4().hex[:8]}.tmp")


def flush_to_disk(file: IO[bytes]) -> None:
    """Wait until a file, open for writing, is on the disk, on file systems that can tell."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def user_path(path: Path | str) -> Path:
    """Return a path with ``~`` replaced by the user's home; ``~0``, of no user, is a plain name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - the method of Path refuses ``~0``


def file_name(label: str) -> str:
    """Return a label as a file name, without characters that some systems refuse.

    A name of more than 80 bytes is shortened; it then ends with a part of its SHA-256.

    Examples:
        >>> file_name("MC-AE, fused"), file_name("sviro:tesla")
        ('MC-AE-fused', 'sviro-tesla')
    """
    name = re.sub(r"[^\w.-]+", "-", label).strip("-.") or "unnamed"
    if len(data := name.encode(errors="surrogatepass")) <= 80:
        return name
    return f"{data[:70].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:8]}"


def cannot_write(path: Path, error: OSError, remedy: str = "") -> AttractorError:
    """Return the error for a path that cannot be written."""
    remedy = remedy or remedy_of(error, _REMEDY)
    return AttractorError(f"{path}: cannot be written ({error.strerror or error}); {remedy}")


def remedy_of(error: OSError, default: str) -> str:
    """Return what to do after an error in writing."""
    return _REMEDIES.get(error.errno or 0, default)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:  # a file name of other bytes
        part = ascii(text[max(0, error.start - 20) : error.end])
        raise AttractorError(
            f"{path}: cannot contain {part}, which is not UTF-8; rename the file or folder"
        ) from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def finite(value: Any, digits: int | None = None) -> Any:  # noqa: ANN401  numbers of any library
    """Return a JSON value with None in place of numbers that are not finite; round the others."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner, digits) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner, digits) for inner in value]
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, float):
        return value
    rounded = value if digits is None else float(f"{value:.{digits}g}")
    return rounded if math.isfinite(value) else None


def write_tensors(
    path: Path, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str]
) -> str:
    """Write tensors with metadata to a safetensors file, atomically; return its digest.

    The file contains its SHA-256, computed with zeros in the place of the digest.
    """
    from safetensors.torch import save

    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(held, {**metadata, _DIGEST: _NO_DIGEST})
    digest = f"{_DIGEST}:{hashlib.sha256(data).hexdigest()}"
    data = data.replace(_NO_DIGEST.encode(), digest.encode(), 1)  # in the header, which is first
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return digest.removeprefix(f"{_DIGEST}:")


def read_tensors(
    path: Path, remedy: str = "create it again"
) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """Read a safetensors file: its tensors, on the CPU, and its metadata.

    The metadata contains the digest as ``sha256``. ``remedy`` ends the messages.

    Raises:
        AttractorError: If the file is missing, truncated, or not as `write_tensors` wrote it. A
            file of another program, without a digest, is read as it is.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not os.path.isfile(path):  # noqa: PTH113 - returns False if access is denied
        problem = "is not a file" if os.path.lexists(path) else "no such file"
        raise AttractorError(f"{path}: {problem}; {remedy}")
    try:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8:end]).get("__metadata__", {})
        digest = metadata.get(_DIGEST, "")
        # A damaged key would hide the digest, but not its value.
        if digest or f'"{_DIGEST}:'.encode() in data[:end]:
            original = data[:end].replace(digest.encode(), _NO_DIGEST.encode(), 1) + data[end:]
            if digest != f"{_DIGEST}:{hashlib.sha256(original).hexdigest()}":
                raise ValueError("its checksum is wrong")
        return load(data), metadata
    except (SafetensorError, *_OF_DAMAGED_JSON, OSError) as error:
        raise AttractorError(
            f"{path}: is truncated or damaged, or another kind of file ({error}); {remedy}"
        ) from None


def load_weights(
    model: "torch.nn.Module", tensors: Mapping[str, "torch.Tensor"], path: Path
) -> None:
    """Load ``tensors``, which were read from ``path``, into ``model``."""
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise AttractorError(
            f"{path}: does not contain the weights of this model ({reason}); "
            "use the config that they were trained with"
        ) from None
