"""Files that are written whole or not at all."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, owner: str = "") -> Iterator[Path]:
    """Give a name beside `path` to write to; when the block ends well, the file takes its place in one step.

    Args:
        path: the final name.
        owner: keeps apart processes that write the same file at once.

    Raises:
        OSError: the folder cannot be written, or the disk is full; what stood under `path` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{owner}.part")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(path.parent).free
            raise OSError(
                f"{path}: the disk is full ({free} bytes free); free some space and start again, it goes on from "
                "what was finished. What `dvc repro` removed before is brought back by `dvc checkout`"
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename inside the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
