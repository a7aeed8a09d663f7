"""What the tools of a session are made from: the attempt, the result contract, the mail."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.host import ToolSpec
from crew_plugin.models.mail import Receipt
from crew_plugin.models.questions import QuestionRecord
from crew_plugin.session.contract import Submission, Verdict
from crew_plugin.session.mail import MailPolicy
from crew_plugin.session.prompt import Peer
from crew_plugin.session.waits import Waited

__all__ = ["Asks", "Mail", "ResultGate", "ResultRules", "SessionScope", "Toolbox"]


class Mail(Protocol):
    """What a session can do with the mail of its run."""

    @property
    def policy(self) -> MailPolicy:
        """The times and limits that hold for mail."""
        ...

    async def send(
        self, to: tuple[str, ...], text: str, *, reply_within: float | None = None
    ) -> tuple[Receipt, ...]:
        """Send to these tasks, or to all others where one of them is `all`. Never waits for the
        recipient; with `reply_within`, one that reads it later than in so many seconds does not get
        it. Raises `UnknownName` and `NotAllowed` before anything is sent."""
        ...

    async def await_reply(self, peers: tuple[str, ...], seconds: float) -> Waited:
        """Wait for the first message of any of these tasks. Raises `NotAllowed` where they wait
        for this session already."""
        ...

    async def peers(self) -> tuple[Peer, ...]:
        """The other tasks of the run and where they stand."""
        ...


class Asks(Protocol):
    """How a session asks whoever started it, or a person."""

    async def ask(
        self, text: str, *, choices: tuple[str, ...], seconds: float | None, default: str | None
    ) -> QuestionRecord:
        """Wait for the answer, within bounds. Returns the question with what became of it: it is
        open no longer. Raises `NotAllowed` where nobody can be asked."""
        ...


class ResultGate(Protocol):
    """Where a session hands in its result."""

    async def submit(self, submission: Submission) -> Verdict:
        """Judge a submission; an accepted one is on the disk when this returns."""
        ...

    async def refuse(self, problem: str, written: str = "") -> Verdict:
        """Count a call whose arguments could not be read; what was `written` is kept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRules:
    """How a session is held to its result."""

    reminders: int = 3
    max_bytes: int = 8_000_000
    """Of the arguments of one submit."""
    jobs_seconds: float = 600.0
    """How long a session may wait for its jobs in the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionScope:
    """One session, as the tools that are made for it see it."""

    context: AttemptContext
    tools: tuple[str, ...]
    """Host-neutral names that the agent lists."""
    cwd: str
    schema: Mapping[str, Any] | None
    data_kind: str | None = None
    """The one JSON type that the schema allows at its top; None if there are several or any will do."""
    gate: ResultGate
    rules: ResultRules = ResultRules()
    mail: Mail
    asks: Asks
    read_artifact: Callable[[str], Awaitable[bytes]]
    """A body that this run stored, by its hash or the beginning of it. Raises `CrewError`."""


Toolbox = Callable[[SessionScope], tuple[ToolSpec, ...]]
"""Makes the crew's own tools for a session: `submit_result`, `irc` and `ask` always, and of the file
tools those that the agent lists."""
