"""`cmexport VERB ...`: the application, and how failures leave it.

Expected failures print one to three lines on stderr and return their exit code; `CMEXPORT_DEBUG=1` shows the traceback
of anything.
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from cmexport import __version__
from cmexport.cli import console
from cmexport.errors import CmexportError
from cmexport.recipes.lifeline import follow_parent
from cmexport.targets.registry import INFOS
from cmexport.threads import let_waiting_threads_sleep

INTERRUPTED = 130
INTERRUPTED_MESSAGE = "interrupted; nothing was left behind"
# These keep what they had measured by then, and say so themselves.
KEEPING_VERBS = frozenset({"bench", "plan", "run", "tune"})
DEFECT = 1

# Importing torch takes 2.6 s; only the verb that is called is imported, and help for all of them is written here.
VERBS = {
    "inspect": "What a checkpoint or artefact is: every constant with its origin, what rewriting removed.",
    "verify": "Compare a written artefact with its checkpoint, or with recorded pictures.",
    "sample": "Draw pictures from a checkpoint or an artefact.",
    "kit": "What an app developer drops in: the model, code to call it, golden pictures, a sample app.",
    "serve": "The live page of an artefact: pictures drawn in the browser while somebody types.",
    "tune": "Find the levels of a K-step schedule by picture quality; or a table for K = 1, 2, 4.",
    "bench": "Latency, memory, energy and parity of artefacts on a device.",
    "report": "One page of HTML, and Markdown, from records and artefacts; figures computed again from samples.",
    "plan": "What each layer costs the pictures in 8 bits, and a precision plan to edit.",
    "run": "A recipe, end to end: export, verify, bench, report; resumable.",
    "init": "Write a commented recipe for a checkpoint.",
    "doctor": "What works on this machine, what is missing, and how to get it.",
}


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Build the application with the called verb in full and the others by name."""
    app = typer.Typer(
        name="cmexport",
        help="A compiler for consistency models: one checkpoint in, one verified graph out.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    exporting = {name: info.summary for name, info in INFOS.items()}
    for verb, summary in {"inspect": VERBS["inspect"], **exporting, **VERBS}.items():
        if verb in arguments[:1]:
            module = import_module("cmexport.cli.exporting" if verb in INFOS else f"cmexport.cli.{verb}")
            app.command(verb)(module.export_verb(INFOS[verb]) if verb in INFOS else module.command)
        else:
            app.command(verb, help=summary)(_not_called)
    return app


def _not_called() -> None:
    raise AssertionError("only the called verb is imported")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cmexport {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def run() -> None:
    """Entry point of the `cmexport` command."""
    follow_parent()
    let_waiting_threads_sleep()
    # A job scheduler's SIGTERM cleans up like Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    _leave(main(sys.argv[1:]))


def _leave(code: int) -> NoReturn:
    """End the process without taking down every object first, which takes a second after an export.

    It also keeps an exit code of 130: CPython remembers a KeyboardInterrupt that passed through code run from C (torch
    does that) and would end the process by signal, exit code -2, although it was handled.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # whoever read it has gone
            code = code or DEFECT
    os._exit(code)


def main(arguments: list[str]) -> int:
    """Run one command line and return the exit code; nothing escapes."""
    try:
        code = build_app(arguments)(arguments or ["--help"], standalone_mode=False, prog_name="cmexport")
        # typer turns Ctrl-C and its own Exit into a returned code.
        return _interrupted(arguments) if code == INTERRUPTED else int(code or 0)
    except TyperException as error:
        return _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments)
    except CmexportError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, say) has gone: that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("out of memory: this model needs more than the machine has free", 5)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = 5 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 3
        return _fail(f"{where}{error.strerror or error}", code)
    except Exception as error:
        return _fail(
            f"a defect in cmexport: {type(error).__name__}: {_first_line(error)}\nrun with CMEXPORT_DEBUG=1 "
            "and report the traceback",
            DEFECT,
        )


def _interrupted(arguments: Sequence[str]) -> int:
    keeps = not KEEPING_VERBS.isdisjoint(arguments[:1])
    return _fail("interrupted" if keeps else INTERRUPTED_MESSAGE, INTERRUPTED)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _fail(message: str, code: int) -> int:
    if os.environ.get("CMEXPORT_DEBUG") == "1":
        traceback.print_exc()
    console.complain(message)
    return code
