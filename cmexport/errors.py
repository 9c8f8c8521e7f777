"""Everything cmexport refuses to do, as one small hierarchy.

Each class carries the process exit code that `docs/cli.md` promises. A message is one to three lines: which file,
what is wrong, what to do. The command line prints it without a traceback (`CMEXPORT_DEBUG=1` shows one).
"""

from __future__ import annotations


class CmexportError(Exception):
    """Base of all expected failures; `exit_code` is what the process returns."""

    exit_code = 1


class UsageError(CmexportError):
    """The request itself is wrong: an unknown field, an impossible schedule, contradicting options."""

    exit_code = 2


class CheckpointError(CmexportError):
    """The checkpoint, artefact or input file can't be used."""

    exit_code = 3


class OutputError(CmexportError):
    """The result can't be written: no permission, no space, a file in the way."""

    exit_code = 3


class ParityError(CmexportError):
    """The artefact was written, but its pictures leave the gate (it is kept as `*.rejected`)."""

    exit_code = 4


class BackendError(CmexportError):
    """A runtime, library or device is missing or refuses the file."""

    exit_code = 5


def first_line(error: BaseException) -> str:
    """Return what another library's error says, in one line: its first, or the error's type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
