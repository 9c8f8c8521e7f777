"""Whole or not at all: results are written beside their final place, then renamed onto it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cmexport.artifact.manifest import MANIFEST_NAME
from cmexport.errors import CmexportError, OutputError
from cmexport.files import require_file

# Less room than this when something broke, and the break is put down to the full disk: C++ writers (protobuf, ONNX
# Runtime) report it as a RuntimeError without an errno.
_FULL_BYTES = 64 * 1024

_REASONS = {
    errno.ENOSPC: "no space left there; free some, or choose another folder with -o",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another folder with -o",
    errno.EFBIG: "the file is too large for that disk; choose another folder with -o",
    errno.EROFS: "the disk is read-only; choose another folder with -o",
    errno.EACCES: "no permission to write there; choose another folder with -o",
    errno.EPERM: "no permission to write there; choose another folder with -o",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another folder with -o",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one with -o",
}
# Errors that can only come from writing, wherever they surface and even if they name no file.
_WRITE_ONLY = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


def artifact_name(name: str, target: str, precision: str) -> str:
    """Folder name of an artefact, `<name>-<target>-<precision>`."""
    return f"{name}-{target}-{precision}"


def reject_name(final: Path) -> Path:
    """Where an artefact goes that failed its gate: `<final>.rejected`."""
    return final.with_name(final.name + ".rejected")


class StagedFolder:
    """A hidden folder being filled.

    Attributes:
        path: write here.
        final: where it will be published when the block ends.
    """

    def __init__(self, path: Path, final: Path) -> None:
        self.path = path
        self.final = final

    def reject(self) -> Path:
        """Publish as `<final>.rejected` instead; an accepted artefact of that name stays untouched."""
        self.final = reject_name(self.final)
        return self.final


def check_artefact(folder: Path) -> None:
    """Refuse to replace a folder that is no artefact; `replacing.Replacement` asks for more.

    Raises:
        OutputError: it is not empty and has no manifest.
    """
    if any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file():
        raise OutputError(
            f"{folder}: holds something else than an artefact ({MANIFEST_NAME} is missing); "
            "empty it, or choose another folder with -o"
        )


@contextmanager
def staged_folder(final: Path, check: Callable[[Path], None] = check_artefact) -> Iterator[StagedFolder]:
    """Fill a hidden sibling of `final`, then rename it into place; on any exception remove every trace.

    An existing folder that `check` lets go is replaced; the old one is moved aside and only deleted when the new one is
    in place.

    Args:
        final: where the folder will stand.
        check: called with the existing folder before anything is written, and again before it is replaced; raises
            where that must not be. By default it must be an artefact, or empty.

    Raises:
        OutputError: a file or link stands at `final`, or the disk refuses (full, read-only, no permission), here or
            inside the block.
        UsageError: from a `check` of the caller's.
    """
    final = Path(os.path.abspath(final))  # noqa: PTH100 - Path.absolute keeps "..", which would break `parents`
    _check_replaceable(final, check)
    made = _make_parents(final.parent)
    staged: Path | None = None
    published = False
    try:
        staged = _fresh_sibling(final, "partial")
        staging = StagedFolder(staged, final)
        yield staging
        _publish(staged, staging.final, check)
        published = True
    except CmexportError:
        raise
    except OSError as error:
        if error.errno in _WRITE_ONLY or staged is None or _names(error, staged) or _is_full(final.parent):
            raise _refused(final, error) from error
        raise
    except Exception as error:
        if _is_full(final.parent):
            raise _refused(final, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
        raise
    finally:
        if not published:
            if staged is not None:
                _remove(staged)
            for folder in reversed(made):
                with suppress(OSError):
                    folder.rmdir()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file whole: beside, then renamed over what was there.

    Raises:
        OutputError: the disk refuses, or the folder doesn't exist.
    """
    require_file(path, "a file that could be replaced", OutputError)
    beside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        try:
            beside.write_bytes(content)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _refused(path, error) from error


def _check_replaceable(final: Path, check: Callable[[Path], None]) -> None:
    """Refuse to replace a file, a link, or what `check` refuses."""
    try:
        if final.is_symlink():
            raise OutputError(f"{final}: a symbolic link is in the way; remove it, or choose another folder with -o")
        if not final.exists():
            return
        if not final.is_dir():
            raise OutputError(f"{final}: a file is in the way; remove it, or choose another folder with -o")
        check(final)
    except OSError as error:
        raise _refused(final, error) from error


def _make_parents(folder: Path) -> list[Path]:
    """Create missing folders; return those created, outermost first, so that a failure can take them back."""
    made: list[Path] = []
    try:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
    except BaseException as error:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, FileExistsError) or not isinstance(error, OSError):
            raise
        raise _refused(folder, error) from error
    return made


def _fresh_sibling(final: Path, purpose: str) -> Path:
    # The process id tells a person whose it is; the counter is for containers, where every process may be number 1.
    for attempt in range(100):
        path = final.with_name(f".{final.name}.{purpose}-{os.getpid()}" + (f"-{attempt}" if attempt else ""))
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise OutputError(f"{final.parent}: too many abandoned .{final.name}.{purpose}-* folders; remove them")


def _publish(staged: Path, final: Path, check: Callable[[Path], None]) -> None:
    """Rename `staged` onto `final`; the artefact that stood there is back if that fails."""
    _check_replaceable(final, check)
    if not final.exists():
        staged.rename(final)
        return
    aside = _fresh_sibling(final, "old")
    aside.rmdir()
    try:
        final.rename(aside)
        staged.rename(final)
    except BaseException:
        if not final.exists():
            aside.rename(final)
        elif not staged.exists():
            _remove(aside)
        raise
    _remove(aside)


def _remove(folder: Path) -> None:
    """Remove a tree as far as the disk allows; a Ctrl-C during that is obeyed after it."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _names(error: OSError, folder: Path) -> bool:
    """Whether the error is about a file inside `folder`."""
    named = [os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)]
    return any(Path(name).is_relative_to(folder) for name in named)


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _FULL_BYTES
    except OSError:
        return False


def _refused(path: Path, error: OSError) -> OutputError:
    reason = _REASONS.get(error.errno or 0) or f"can't be written: {error.strerror or error}"
    return OutputError(f"{path}: {reason}")
