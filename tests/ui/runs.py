"""A small run in a real store, written step by step, for tests of what people see."""

from dataclasses import dataclass
from pathlib import Path

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import (
    Effect,
    Lease,
    NewEvent,
    NewResult,
    NewRun,
    NewTask,
    Owner,
    ParentRef,
    RunRecord,
    TranscriptEntry,
    Usage,
)
from crew_plugin.models.states import AttemptState, RunState, SessionKind, TaskState
from crew_plugin.project import Project
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore

DEAD = Owner(pid=1_999_999, started=1.0, boot_id=current_owner().boot_id)
"""A process that is not there."""


def project_in(folder: Path) -> Project:
    return Project(root=folder, state_dir=folder / ".crew" / "state")


@dataclass
class Book:
    """One run and the store that holds it."""

    store: SqliteStore
    run: RunRecord
    lease: Lease

    def start(self, key: str, *, model: str = "small") -> str:
        """Start a task; returns its attempt's id."""
        task = self.store.load_task(self.run.id, key)
        attempt = self.store.start_attempt(
            self.lease,
            task.id,
            kind=SessionKind.LIVE,
            engine="test",
            model=model,
            cwd="/w",
            actor="supervisor",
        )
        prompt = self.store.put_artifact(
            self.run.id, f"prompt-{key}", f"You are {key}.".encode(), task_id=task.id
        )
        self.store.open_session(self.lease, attempt.id, host_session=f"host-{key}", prompt=prompt)
        return attempt.id

    def talk(self, attempt_id: str, *entries: TranscriptEntry) -> None:
        self.store.append_transcript(self.lease, self.store.load_attempt(attempt_id).session_id, entries)

    def spend(self, attempt_id: str, usage: Usage) -> None:
        self.store.touch_attempt(self.lease, attempt_id, usage=usage, steps=usage.calls, model_used="small-1")

    def call(self, attempt_id: str, tool: str, arguments: str) -> str:
        return self.store.begin_tool_call(self.lease, attempt_id, tool, Effect.PURE, arguments)

    def finish(self, attempt_id: str, result: NewResult) -> None:
        self.store.accept_result(self.lease, attempt_id, result, actor="session")
        self.store.end_attempt(
            self.lease,
            attempt_id,
            AttemptState.COMPLETED,
            task_state=TaskState.COMPLETED,
            actor="supervisor",
        )

    def try_again(self, attempt_id: str) -> None:
        """End without a result; another attempt is due."""
        self.store.end_attempt(
            self.lease, attempt_id, AttemptState.FAILED, task_state=None, actor="supervisor"
        )

    def abandon(self, attempt_id: str, text: str) -> None:
        """End without a result, keeping the last text."""
        ref = self.store.put_artifact(self.run.id, "last-text", text.encode())
        self.store.end_attempt(
            self.lease,
            attempt_id,
            AttemptState.NEEDS_ATTENTION,
            task_state=TaskState.NEEDS_ATTENTION,
            actor="supervisor",
            cause=Cause(code=CauseCode.NO_RESULT, message="it never called submit_result"),
            last_text=ref,
        )

    def say(self, *events: NewEvent) -> None:
        self.store.append_events(self.lease, self.run.id, events)

    def end(self, state: RunState, cause: Cause | None = None) -> None:
        self.store.transition_run(self.lease, state, actor="supervisor", cause=cause)


def open_book(
    store: SqliteStore,
    *,
    goal: str = "look at the login code",
    owner: Owner | None = None,
    parent: ParentRef | None = None,
    background: bool = False,
) -> Book:
    """A running run of `explore -> (code, security) -> verify`."""
    tasks = [
        NewTask(key="explore", title="Explore", role="explorer", agent="explorer"),
        NewTask(key="code", title="Code", role="reviewer", agent="reviewer", depends_on=("explore",)),
        NewTask(
            key="security", title="Security", role="sec", agent="security-reviewer", depends_on=("explore",)
        ),
        NewTask(
            key="verify", title="Verify", role="verifier", agent="verifier", depends_on=("code", "security")
        ),
    ]
    new = NewRun(
        goal=goal,
        team="review",
        workflow="review",
        cwd="/w",
        spec="{}",
        parent=parent,
        background=background,
    )
    run = store.create_run(new, tasks, actor="operator")
    lease = store.claim(run.id, owner or current_owner())
    store.transition_run(lease, RunState.RUNNING, actor="supervisor")
    return Book(store=store, run=run, lease=lease)


def play(book: Book) -> None:
    """Explore is done, code runs a tool, security ended without a result, verify waits."""
    explore = book.start("explore")
    book.talk(
        explore,
        TranscriptEntry(seq=0, role="user", content="Find the login code."),
        TranscriptEntry(
            seq=0,
            role="assistant",
            content="Looking.",
            data={"tool_calls": [{"id": "c1", "name": "read", "arguments": '{"path": "login.py"}'}]},
        ),
        TranscriptEntry(
            seq=0, role="tool", content="1\tdef login(): ...", data={"call_id": "c1", "name": "read"}
        ),
    )
    book.spend(explore, Usage(input=12_300, output=900, calls=3))
    book.finish(
        explore,
        NewResult(
            summary="Login is in login.py\nand session.py.",
            data={"files": ["login.py"]},
            artifacts={"map.md": "# Map\n"},
        ),
    )
    code = book.start("code")
    book.spend(code, Usage(input=2_000, output=100, calls=1))
    book.call(code, "read", '{"path": "login.py"}')
    security = book.start("security")
    book.abandon(security, "I think it is fine.")
