"""An output folder that appears whole or not at all.

Files are written to a hidden sibling folder, which is renamed at the end: on the same disk that is
one step. An error or an interrupt removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fairdeploy.errors import FairdeployError, OutputError

OUR_FILES = ("report.json", "sweep.json")
"""A folder that holds one of these was made by us, so ``--force`` may replace it."""


def check_output_folder(folder: Path, *, force: bool) -> None:
    """Refuse, before any work, a folder that exists or cannot be made.

    Raises:
        OutputError: It exists and ``force`` is not given; it holds something that we did not make;
            or its parent is missing or cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        if not folder.is_dir():
            raise OutputError(f"output '{folder}' is a file; choose a folder with --output")
        is_ours = not any(folder.iterdir()) or any((folder / name).is_file() for name in OUR_FILES)
        if not force:
            raise OutputError(
                f"output folder '{folder}' exists; choose another with --output, or add --force"
            )
        if not is_ours:
            raise OutputError(
                f"output folder '{folder}' holds files that fairdeploy did not write; "
                "--force replaces only earlier results; choose another with --output"
            )
    parent = folder.absolute().parent
    existing = next(path for path in (parent, *parent.parents) if path.exists())
    try:
        # permission bits do not tell of read-only disks and special folders: try it
        os.rmdir(tempfile.mkdtemp(prefix=".fairdeploy.", dir=existing))
    except OSError as error:
        raise OutputError(
            f"cannot write in '{existing}' ({error.strerror}); "
            "choose a folder that you may write to with --output"
        ) from error


@contextlib.contextmanager
def appearing_folder(folder: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary folder; rename it to ``folder`` when the block ends well.

    Raises:
        OutputError: As ``check_output_folder``, or the disk refused.
    """
    check_output_folder(folder, force=force)
    with folder_built_aside(folder, "choose another with --output") as scratch:
        yield scratch


@contextlib.contextmanager
def folder_built_aside(folder: Path, advice: str) -> Iterator[Path]:
    """Give a hidden sibling of ``folder``, which takes its place when the block ends well.

    Whatever is at ``folder`` is replaced: check before that it may be. Errors that name the sibling
    come out with the name of ``folder``.

    Args:
        advice: What to do if the disk refuses.

    Raises:
        OutputError: The disk refused.
    """
    target = folder.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write in '{target.parent}': {error.strerror}; {advice}"
        ) from error
    try:
        yield scratch
        scratch.chmod(0o755)
        _replace(target, scratch)
    except FairdeployError as error:
        hidden = str(scratch)
        if hidden not in str(error):
            raise
        raise type(error)(str(error).replace(hidden, str(folder))) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(target: Path, scratch: Path) -> None:
    """Rename ``scratch`` to ``target``; an earlier result is kept until the new one is there."""
    if not target.exists():
        scratch.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / "old")
    try:
        scratch.rename(target)
    except OSError:
        (old / "old").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
