"""The ways in which a person is told. Each returns what was wrong, or nothing."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from crew_plugin.notify.notice import Notice

if TYPE_CHECKING:
    from crew_plugin.config.settings import Settings

__all__ = ["IN_TERMINAL", "own_terminal", "problem_with", "run_program", "terminal_text"]

IN_TERMINAL: Final = frozenset({"bell", "osc9", "osc777"})
"""Ways that need the terminal of a chat."""
_SECONDS: Final = 20.0
_TITLE: Final = 80
_BODY: Final = 240
_FACT: Final = 4000
"""A variable of the environment has room for so many characters everywhere."""
_OSASCRIPT: Final = (
    *("-e", "on run argv"),
    *("-e", "display notification (item 2 of argv) with title (item 1 of argv)"),
    *("-e", "end run"),
)


def terminal_text(how: str, notice: Notice) -> str:
    """What to write to the terminal: it is heard or shown beside the chat and leaves no mark in it."""
    if how == "bell":
        return "\a"
    title, body = (_plain(text, limit) for text, limit in ((notice.title, _TITLE), (notice.body, _BODY)))
    said = f"9;{title}: {body}" if how == "osc9" else f"777;notify;{title.replace(';', ',')};{body}"
    text = f"\x1b]{said}\a"
    if os.environ.get("TMUX"):
        return f"\x1bPtmux;{text.replace('\x1b', '\x1b\x1b')}\x1b\\"
    return text


def own_terminal() -> Callable[[str], None] | None:
    """Writes to the terminal of this process, past whatever stands in for it; None where there is none.
    Only for what leaves no mark there: whoever draws on it does not know of this."""
    out = sys.__stdout__
    if out is None or not out.isatty():
        return None

    def write(text: str) -> None:
        os.write(out.fileno(), text.encode())

    return write


def run_program(notice: Notice, settings: "Settings") -> str | None:
    """Show it on the desktop, or have the user's command deal with it. Blocks until that has ended, for
    at most 20 seconds. Returns what was wrong."""
    problem = problem_with(settings)
    if problem is not None:
        return problem
    command = settings.notify.command if settings.notify.how == "command" else _desktop(notice)
    return _run(command, _facts(notice))


def problem_with(settings: "Settings") -> str | None:
    """Why nobody can be told in the way that the settings name."""
    how, command = settings.notify.how, settings.notify.command
    if how == "command" and not command:
        return "notify.command is empty: name a program and its arguments in the user's file"
    if how == "command" and shutil.which(command[0]) is None:
        return f"notify.command: there is no program {command[0]!r}"
    if how == "desktop" and _desktop_program() is None:
        wanted = (
            "osascript" if sys.platform == "darwin" else "notify-send (package libnotify-bin or libnotify)"
        )
        return f"notify.how is desktop, and this machine has no {wanted}"
    return None


def _desktop_program() -> str | None:
    return shutil.which("osascript" if sys.platform == "darwin" else "notify-send")


def _desktop(notice: Notice) -> Sequence[str]:
    program = _desktop_program() or ""
    title, body = _plain(notice.title, _TITLE), _plain(notice.body, _BODY)
    if sys.platform == "darwin":
        return (program, *_OSASCRIPT, title, body)
    # Some desktops read markup in the body.
    return (program, "--app-name=crew", "--", title, escape(body, quote=False))


def _facts(notice: Notice) -> Mapping[str, str]:
    return {
        "CREW_NOTICE_KIND": notice.kind,
        "CREW_NOTICE_RUN": notice.run.id,
        "CREW_NOTICE_TITLE": notice.title,
        "CREW_NOTICE_BODY": notice.body[:_FACT],
        "CREW_NOTICE_FOLDER": notice.run.cwd,
    }


def _run(command: Sequence[str], facts: Mapping[str, str]) -> str | None:
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **{name: text.replace("\0", "") for name, text in facts.items()}},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"{command[0]!r} cannot be started: {error}"
    with process:
        try:
            _, said = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"{command[0]} took more than {_SECONDS:.0f} seconds and was ended"
    if process.returncode:
        last = said.decode("utf-8", "replace").strip()[-200:]
        return f"{command[0]} ended with exit code {process.returncode}{f': {last}' if last else ''}"
    return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """With everything it started in its own session."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()


def _plain(text: str, limit: int) -> str:
    """One line without anything that a terminal would act on."""
    flat = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
