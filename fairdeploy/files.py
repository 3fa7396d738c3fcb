"""An output folder that appears whole or not at all.

Files are written to a hidden sibling folder, which is renamed at the end: on the same disk that is
one step. An error or an interrupt removes it, but for what ``kept_if_it_fails`` says is worth
keeping. A run that is killed can't clean up; the next one for the same folder does, and tells by a
lock, which ends with its process, that nobody works there any more.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from platformdirs import user_cache_path

from fairdeploy.errors import FairdeployError, OutputError

try:
    import fcntl
except ImportError:  # not on this system: nothing is locked, and nothing swept up
    fcntl = None  # type: ignore[assignment]

OUR_FILES = ("report.json", "sweep.json", "comparison.json")
"""A folder that holds one of these was made by us, so ``--force`` may replace it."""

_ADVICE = "choose another with --output"
_NEW, _OLD = "new", "old"
_LONGEST_PREFIX = 120
_LONGEST_FILE = "x" * 40
"""As long as the names of files that are written."""


def check_output_folder(folder: Path, *, force: bool) -> None:
    """Refuse, before any work, a folder that exists or cannot be made.

    Raises:
        OutputError: It exists and ``force`` is not given; it holds something that we did not make;
            or its parent is missing or cannot be written.
    """
    try:
        sweep_up(folder)
        if folder.exists() or folder.is_symlink():
            _check_existing(folder, force=force)
    except OSError as error:
        raise OutputError(
            f"output folder '{folder}' cannot be used ({error.strerror}); {_ADVICE}"
        ) from error
    require_room_for(folder, "choose a folder that you may write to with --output")


def _check_existing(folder: Path, *, force: bool) -> None:
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
            f"--force replaces only earlier results; {_ADVICE}"
        )


def require_room_for(folder: Path, advice: str) -> None:
    """Try whether a folder of this name can be made, with files in it; nothing stays.

    Permission bits do not tell of read-only disks, special folders and names that are too long.

    Args:
        advice: What to do if not.

    Raises:
        OutputError: It can't.
    """
    target = folder.absolute()
    try:
        str(target).encode()  # runtimes take no other paths
        existing = next(path for path in target.parents if path.exists())
        with tempfile.TemporaryDirectory(prefix=".fairdeploy.", dir=existing) as trial:
            inside = Path(trial) / target.relative_to(existing)
            inside.mkdir(parents=True)
            (inside / _LONGEST_FILE).touch()
    except (
        OSError,
        ValueError,
    ) as error:  # ValueError: a NUL in the name, or bytes that are no text
        where = target.parent if isinstance(error, ValueError) else _refused_place(target)
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"cannot write in '{where}' ({reason}); {advice}") from error


def _refused_place(target: Path) -> Path:
    """The nearest folder that is there, or where even asking that is refused, the target."""
    try:
        return next(path for path in target.parents if path.exists())
    except OSError:
        return target


@contextlib.contextmanager
def appearing_folder(folder: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary folder; rename it to ``folder`` when the block ends well.

    Raises:
        OutputError: As ``check_output_folder``, or the disk refused.
    """
    check_output_folder(folder, force=force)
    with folder_built_aside(folder, _ADVICE) as scratch:
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
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            sweep_up(folder)
            scratch = stack.enter_context(_sibling(target, _NEW))
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
            raise _renamed(error, hidden, str(folder)) from error


def _renamed(error: FairdeployError, hidden: str, shown: str) -> FairdeployError:
    """The same error, with what has been noted on it, in other words."""
    renamed = type(error)(str(error).replace(hidden, shown))
    for note in getattr(error, "__notes__", ()):
        renamed.add_note(note)
    return renamed


@contextlib.contextmanager
def kept_if_it_fails(scratch: Path, folder: Path, wanted: Sequence[str]) -> Iterator[None]:
    """If the block fails or is interrupted, move what is done beside ``folder`` and note where.

    Args:
        scratch: Where the finished files lie.
        folder: Where they would have appeared.
        wanted: Names of all files that would have been there in the end.
    """
    try:
        yield
    except BaseException as error:
        done = sorted(path.name for path in scratch.iterdir())
        missing = ", ".join(name for name in wanted if name not in done)
        try:
            place = _unused(folder.with_name(f"{folder.name}-unfinished"))
            scratch.chmod(0o755)
            scratch.rename(place)
        except OSError as problem:
            error.add_note(f"nothing could be kept: {problem.strerror}")
        else:
            lacks = f", without {missing}" * bool(missing)
            error.add_note(f"what was finished is kept in '{place}': {', '.join(done)}{lacks}")
        raise


def _unused(path: Path) -> Path:
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    return next(name for name in names if not name.exists() and not name.is_symlink())


def sweep_up(folder: Path) -> None:
    """Remove what killed runs for this folder have left, and put back a result they had set aside.

    Only folders of our own naming, of this machine and user, that no process holds.
    """
    target = folder.absolute()
    if fcntl is None or not target.parent.is_dir():
        return
    for role in (_OLD, _NEW):
        for path in target.parent.iterdir():
            if re.fullmatch(_pattern(target, role), path.name):
                with _held(path) as is_ours:
                    if is_ours and role == _OLD and not target.exists():
                        (path / target.name).rename(target)
                    if is_ours:
                        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _sibling(target: Path, role: str) -> Iterator[Path]:
    """A new hidden folder beside ``target``, held until the block ends and removed then."""
    before, after = _affixes(target, role)
    while True:
        path = Path(tempfile.mkdtemp(prefix=before, suffix=after, dir=target.parent))
        with _held(path, waits=True):
            if not path.exists():
                continue  # swept up before it was held
            try:
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)
            return


def _affixes(target: Path, role: str) -> tuple[str, str]:
    """Around the random part of a sibling's name; the second names the machine."""
    name = target.name
    if len(os.fsencode(name)) > _LONGEST_PREFIX:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    machine = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
    return f".{name}.", f".{machine}.fairdeploy-{role}"


def _pattern(target: Path, role: str) -> str:
    before, after = _affixes(target, role)
    return f"{re.escape(before)}[a-z0-9_]{{8}}{re.escape(after)}"


@contextlib.contextmanager
def _held(path: Path, *, waits: bool = False) -> Iterator[bool]:
    """Lock a folder; False where another process holds it, or it is not ours or can't be locked."""
    descriptor = None
    if fcntl is not None:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor is not None and _is_locked(descriptor, waits)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_locked(descriptor: int, waits: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(descriptor).st_uid == os.geteuid()


def _replace(target: Path, scratch: Path) -> None:
    """Rename ``scratch`` to ``target``; an earlier result is kept until the new one is there."""
    if not target.exists():
        scratch.rename(target)
        return
    with _sibling(target, _OLD) as aside:
        target.rename(aside / target.name)
        try:
            scratch.rename(target)
        except OSError:
            (aside / target.name).rename(target)
            raise


def write_whole(path: Path, text: str) -> None:
    """Write a text so that the old file is there until the new one is.

    Raises:
        OutputError: The disk refused.
    """
    written = path.with_name(f".{path.name}.new")
    try:
        written.write_text(text, encoding="utf-8")
        os.replace(written, path)
    except OSError as error:
        raise OutputError(
            f"cannot write '{path}': {error.strerror or error}; make space or choose another folder"
        ) from error
    finally:
        written.unlink(missing_ok=True)


def open_regular(path: Path) -> BufferedReader:
    """Open a file of somebody else's for reading, if it is one: a pipe or a device has no end.

    Raises:
        OSError: It is a folder, pipe, socket or device, or cannot be read.
    """
    # Opening a pipe waits for its writer unless told not to.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def require_regular(path: Path) -> None:
    """For readers that open files themselves.

    Raises:
        OSError: See ``open_regular``.
    """
    open_regular(path).close()


def read_regular_text(path: Path) -> str:
    """The UTF-8 text of a regular file.

    Raises:
        OSError: See ``open_regular``.
        UnicodeDecodeError: It is not UTF-8.
    """
    with open_regular(path) as file:
        return file.read().decode("utf-8")


_PATTERNS = {
    "scores": ("scores-*.safetensors",),
    "channel sweeps": ("multiples-*.json",),
    "interrupted training": ("training/*.pt", "training/*.part"),
    "GPU timings": ("timing-*.cache",),
    "details of failures": ("logs/failure-*.log",),
    "unfinished files": ("*.tmp",),
}


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """All files of a kind."""

    kind: str
    num_files: int
    size_bytes: int


def cache_folder() -> Path:
    """``$FAIRDEPLOY_CACHE`` or ours among the system's caches of this user; it need not exist."""
    given = os.environ.get("FAIRDEPLOY_CACHE")
    return Path(given) if given else user_cache_path("fairdeploy", appauthor=False)


def cache_entries(folder: Path) -> tuple[CacheEntry, ...]:
    """What lies in ``folder``, by kind; files of other names are nobody's business here."""
    found = {kind: list(_files(folder, kind)) for kind in _PATTERNS}
    return tuple(
        CacheEntry(kind, len(files), sum(file.lstat().st_size for file in files))
        for kind, files in found.items()
    )


def clear_cache(folder: Path) -> tuple[CacheEntry, ...]:
    """Remove what ``cache_entries`` lists, nothing else; returns what was there."""
    entries = cache_entries(folder)
    for kind in _PATTERNS:
        for file in _files(folder, kind):
            file.unlink(missing_ok=True)
    return entries


def _files(folder: Path, kind: str) -> Iterator[Path]:
    for pattern in _PATTERNS[kind]:
        yield from (file for file in sorted(folder.glob(pattern)) if not file.is_dir())


INDEX_ENDING = ".index.json"


def is_index(path: Path) -> bool:
    """Whether this is the index of sharded weights, by its name."""
    return path.name.endswith(INDEX_ENDING)


def model_name(path: Path) -> str:
    """What a network from this file is called: the name without its endings."""
    return path.name.removesuffix(INDEX_ENDING).rpartition(".")[0] if is_index(path) else path.stem
