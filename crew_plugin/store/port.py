"""The port to durable storage.

Every method is one transaction unless it is called inside `transaction()`. Methods are
synchronous and may block on the disk: on an event loop they are called through
`store.writer.StoreWriter`, which owns the one writing thread of a process.

A change of a run needs its `Lease`; the epoch is compared inside the transaction and a
supervisor that lost the run gets `Fenced`, with nothing written. Whatever a process without
the lease wants of a run it asks for with `request_control` or `send_message`.

A change and the event that tells of it are one transaction. Transitions are idempotent: asking
for the state that is already there changes nothing, appends nothing and is no error; asking for
a state that the table does not allow raises `IllegalTransition`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from crew_plugin.models.causes import Cause
from crew_plugin.models.mail import MessageKind, MessageRecord, MessageState, ReceiptOutcome
from crew_plugin.models.questions import NewQuestion, QuestionRecord, QuestionState
from crew_plugin.models.records import (
    ArtifactRef,
    AttemptRecord,
    ControlRecord,
    ControlVerb,
    Counts,
    DeadLetter,
    DeadLetterState,
    DeliveryRecord,
    DeliveryState,
    Effect,
    EventRecord,
    GaveUp,
    ImportRecord,
    Lease,
    NewEvent,
    NewResult,
    NewRun,
    NewTask,
    Owner,
    ParentRef,
    PeerRecord,
    ResultRecord,
    RunRecord,
    SectionRecord,
    SessionRecord,
    TaskRecord,
    ToolCallRecord,
    TranscriptEntry,
    Usage,
)
from crew_plugin.models.removal import Details, Removal, Thinned, UpkeepRecord
from crew_plugin.models.states import AttemptState, RunState, SessionKind, TaskState

__all__ = ["Column", "RunStore"]

Column = str | int | float | bytes | None
"""What a column of a row holds."""


class RunStore(Protocol):
    """Where runs live."""

    def transaction(self) -> AbstractContextManager[None]:
        """Make all calls inside one transaction. Nested use makes a savepoint."""
        ...

    def close(self) -> None:
        """Release the files. Closing twice is no error."""
        ...

    # --- runs ---

    def create_run(self, run: NewRun, tasks: Sequence[NewTask], *, actor: str) -> RunRecord:
        """Write down a run and its tasks, all `queued`, with `run.created`."""
        ...

    def load_run(self, run_id: str) -> RunRecord:
        """One run. Raises `UnknownName` with the nearest ids; a unique prefix or suffix of an id
        of at least four characters, and `last` for the newest run, are accepted."""
        ...

    def list_runs(
        self, *, states: Sequence[RunState] = (), limit: int = 50, parent: ParentRef | None = None
    ) -> list[RunRecord]:
        """Runs, newest first; only those in `states` and of this parent session where given."""
        ...

    def list_started(self, run_id: str) -> list[RunRecord]:
        """The runs that sessions of this run asked for, oldest first."""
        ...

    def list_group(self, run_id: str) -> list[RunRecord]:
        """This run and the background runs that were asked for in the same turn of the same parent,
        oldest first."""
        ...

    def transition_run(
        self, lease: Lease, to: RunState, *, actor: str, cause: Cause | None = None
    ) -> RunRecord:
        """Move the run. A terminal state releases the lease and, when the run has a parent and is
        a background run, adds the run's end to the outbox in the same transaction."""
        ...

    # --- lease ---

    def claim(self, run_id: str, owner: Owner, *, force: bool = False, still: int | None = None) -> Lease:
        """Take the run under a new epoch. Raises `LeaseHeld` while its owner's process lives
        (same boot, same pid, same start time) unless `force`, or unless its count of renewals still
        is `still`: the caller saw it stand there for the time of a lease. A terminal run raises
        `IllegalTransition`."""
        ...

    def renew(self, lease: Lease, *, worked: float = 0.0) -> int:
        """Show that the supervisor lives, and that it has driven the run for `worked` seconds more.
        Returns the new count of renewals."""
        ...

    def note_lost(self, run_id: str, epoch: int, *, how: str, actor: str) -> bool:
        """Note, once for each epoch, that the supervisor of a run is gone (`run.supervisor_lost`).
        False if that is known, or not so any more."""
        ...

    def release(self, lease: Lease) -> None:
        """Give the run up without ending it."""
        ...

    # --- tasks and attempts ---

    def load_tasks(self, run_id: str) -> list[TaskRecord]:
        """The run's tasks by position."""
        ...

    def load_task(self, run_id: str, key_or_id: str) -> TaskRecord:
        """One task, by its key or its id. Raises `UnknownName`."""
        ...

    def list_peers(self, run_id: str, key: str, *, limit: int | None) -> tuple[list[PeerRecord], int]:
        """At most `limit` of the tasks other than this one, those that can be talked to first
        (running, waiting, queued, ended); and how many others there are."""
        ...

    def start_attempt(
        self,
        lease: Lease,
        task_id: str,
        *,
        kind: SessionKind,
        engine: str,
        model: str | None,
        cwd: str,
        actor: str,
    ) -> AttemptRecord:
        """`queued` (or `running` between two attempts) -> `running`: counts the dispatch, makes
        the attempt and its session. Raises `IllegalTransition` when the dispatch cap is reached
        or another attempt of the task is open."""
        ...

    def resume_attempt(self, lease: Lease, attempt_id: str, *, actor: str) -> AttemptRecord:
        """An open attempt goes on under this lease, with its task `running`. Counts as a dispatch if
        no model has answered since it was resumed last; raises `IllegalTransition` at the cap."""
        ...

    def open_session(
        self, lease: Lease, attempt_id: str, *, host_session: str, prompt: ArtifactRef | None
    ) -> None:
        """Note the host's id of the session and the prompt it got."""
        ...

    def touch_attempt(
        self,
        lease: Lease,
        attempt_id: str,
        *,
        usage: Usage,
        steps: int,
        model_used: str | None,
        counts: Counts | None = None,
    ) -> None:
        """Note progress: usage so far, model calls so far, activity now, and the counts where given."""
        ...

    def add_usage(self, lease: Lease, attempt_id: str, *, usage: Usage, steps: int) -> None:
        """Count what a further conversation of an ended attempt used."""
        ...

    def end_attempt(
        self,
        lease: Lease,
        attempt_id: str,
        state: AttemptState,
        *,
        task_state: TaskState | None,
        actor: str,
        cause: Cause | None = None,
        last_text: ArtifactRef | None = None,
        gave_up: GaveUp | None = None,
    ) -> TaskRecord:
        """End an attempt and, unless `task_state` is None (another attempt is due), its task,
        with the matching event. `COMPLETED` is refused with `IllegalTransition` when no accepted
        result without error exists for this attempt. A task that fails becomes a dead letter in the
        same transaction if it was given up, with `task.given_up`. If another attempt is due, mail that
        this one was given and has not read is `accepted` again, for that one."""
        ...

    def transition_task(
        self,
        lease: Lease,
        task_id: str,
        to: TaskState,
        *,
        actor: str,
        cause: Cause | None = None,
        gave_up: GaveUp | None = None,
    ) -> TaskRecord:
        """Move a task that has no open attempt (skip, cancel, fail), or `running <-> waiting`.
        `COMPLETED` and `RUNNING` from `queued` are not reached this way. One that fails becomes a
        dead letter if it was given up, as in `end_attempt`."""
        ...

    def hold_task(self, lease: Lease, task_id: str, reason: str, *, actor: str) -> TaskRecord:
        """Nothing of the task goes on until somebody decides (`task.held`)."""
        ...

    def free_task(self, lease: Lease, task_id: str, decision: str, *, actor: str) -> TaskRecord:
        """It was decided what becomes of a held task (`task.decided`)."""
        ...

    def schedule_retry(self, lease: Lease, task_id: str, at: float, *, actor: str) -> TaskRecord:
        """Note when the next attempt of a running task without an open attempt is due."""
        ...

    def load_attempt(self, attempt_id: str) -> AttemptRecord:
        """One attempt. Raises `UnknownName`."""
        ...

    def list_attempts(self, task_id: str) -> list[AttemptRecord]:
        """The attempts of a task, oldest first."""
        ...

    def open_attempts(self, run_id: str) -> list[AttemptRecord]:
        """The attempts of a run that have not ended."""
        ...

    def load_session(self, session_id: str) -> SessionRecord:
        """One session, by our id or the host's. Raises `UnknownName`."""
        ...

    # --- retries ---

    def reopen_run(
        self, run_id: str, keys: Sequence[str], *, actor: str, spec: str | None = None
    ) -> RunRecord:
        """Make a failed or cancelled run `queued` again under a new epoch, with `run.reopened`, and
        requeue these tasks with the dependants that were skipped because of them. Nobody owns it
        then. `spec` replaces its plan."""
        ...

    def retry_tasks(
        self, lease: Lease, keys: Sequence[str], *, actor: str, spec: str | None = None
    ) -> list[TaskRecord]:
        """Requeue these tasks of a run that goes on, with the dependants that were skipped because
        of them. Returns all that changed."""
        ...

    # --- dead letters ---

    def list_dead_letters(
        self, run_id: str | None = None, *, states: Sequence[DeadLetterState] = ()
    ) -> list[DeadLetter]:
        """The tasks of a run, or of all runs, that were given up although their failure may pass, oldest
        first; only those in `states` where given. Whoever queues such a task again closes it."""
        ...

    def load_dead_letter(self, letter_id: str) -> DeadLetter:
        """One dead letter, by its id or at least four characters of its end. Raises `UnknownName`."""
        ...

    def drop_dead_letter(self, letter_id: str, *, actor: str, reason: str) -> DeadLetter:
        """Let an open dead letter go, with `dead_letter.dropped`. Its task, attempts and results stay.
        Twice is once; raises `NotAllowed` for one whose task was queued again."""
        ...

    # --- deletion ---

    def forget_run(self, run_id: str, *, actor: str, reason: str, undelivered: bool = False) -> Removal:
        """Delete an ended run with all that is written down of it; a tombstone stays, and whoever asks
        for the run, or writes to it, gets `Forgotten`. Raises `NotAllowed` for one that has not ended,
        and for one that owes results unless `undelivered`."""
        ...

    def sweep_bodies(self, among: Sequence[str] | None = None) -> tuple[int, int]:
        """Delete those of these bodies (or of all) that nothing refers to any more. Returns how many
        there were and their bytes. Not to be called in the transaction that removed the references."""
        ...

    def details(self, run_id: str) -> Details:
        """What is kept of a run and no result needs."""
        ...

    def thin_run(self, run_id: str, *, actor: str, because: str, events: bool = True) -> Thinned:
        """Delete of an ended run what its results do not need: bodies (`artifact.removed`) and, with
        `events`, the events that say how things went, for which `tail` has an `events.left_out` from then
        on. Raises `NotAllowed` for a run that has not ended."""
        ...

    def unused_bodies(self) -> Mapping[str, int]:
        """Bytes by name of the bodies that nothing refers to. One that is being written at this moment
        may be among them."""
        ...

    def note_upkeep(self, *, actor: str, reason: str, done: Mapping[str, Any]) -> None:
        """Write down what was removed that belonged to no run any more, by whom and why."""
        ...

    def list_upkeep(self, *, limit: int) -> list[UpkeepRecord]:
        """What was removed so, newest first."""
        ...

    # --- bundles ---

    def dump_run(self, run_id: str) -> Iterator[tuple[str, Mapping[str, Column]]]:
        """Every row that goes along with a run to another project, with its table, in an order in which
        it can be written down there. To be read inside one `transaction()`."""
        ...

    def restore_run(
        self,
        rows: Sequence[tuple[str, Mapping[str, Column]]],
        bodies: Sequence[str],
        read: Callable[[str], bytes],
    ) -> None:
        """Write down a run of another project, with its bodies (their hashes, and what reads one).
        Its events get new numbers. Raises `CallerError` where the rows contradict each other."""
        ...

    def mark_imported(self, run_id: str, about: ImportRecord, *, actor: str) -> None:
        """Note where an ended run came from, with `run.imported`. It can be read and forgotten from now
        on, and neither opened again nor gone on with."""
        ...

    # --- questions ---

    def ask_question(
        self, lease: Lease, attempt_id: str, question: NewQuestion, *, actor: str
    ) -> QuestionRecord:
        """Write a question down; its attempt and task become `waiting`, with `task.waiting`."""
        ...

    def answer_question(self, question_id: str, answer: str, *, by: str) -> QuestionRecord:
        """Answer an open question, once, with `question.answered`. The task stays `waiting` until
        whoever drives the run has closed it. Raises `InvalidValue` for what is none of its choices,
        and `NotAllowed` where it is not open any more."""
        ...

    def close_question(
        self, lease: Lease, question_id: str, state: QuestionState, *, actor: str, reason: str | None = None
    ) -> QuestionRecord:
        """The session goes on. An open question becomes `state`, an answered one stays answered;
        a task that waits for it is `running` again, with `task.resumed`."""
        ...

    def tell_question(self, question_id: str, *, actor: str) -> bool:
        """Note, once, that an open question is being put to whoever asked for its run. False if it is
        not open any more or was put to them before."""
        ...

    def load_question(self, question_id: str) -> QuestionRecord:
        """One question as it stands. Raises `UnknownName`."""
        ...

    def list_questions(
        self, run_id: str | None = None, *, attempt_id: str | None = None, only_open: bool = False
    ) -> list[QuestionRecord]:
        """The questions of a run, of an attempt, or of all runs, oldest first."""
        ...

    # --- results and the outbox ---

    def accept_result(self, lease: Lease, attempt_id: str, result: NewResult, *, actor: str) -> ResultRecord:
        """Write an accepted result and, for a background run with a parent, its outbox row, in
        one transaction. A second result of the same attempt replaces the first only while the
        attempt is open."""
        ...

    def owe_results(self, lease: Lease) -> None:
        """Whoever asked for the run does not wait for it any more: its results, those that are there
        already too, are owed to its parent from now on."""
        ...

    def add_section(
        self, lease: Lease, attempt_id: str, label: str, value: Any, *, adds: bool, actor: str
    ) -> SectionRecord:
        """Keep a part of a result that is not handed in yet."""
        ...

    def list_sections(self, attempt_id: str) -> list[SectionRecord]:
        """The parts that an attempt handed in, in their order."""
        ...

    def load_result(self, result_id: str) -> ResultRecord:
        """One result. Raises `UnknownName`."""
        ...

    def list_results(self, run_id: str) -> list[ResultRecord]:
        """The results of a run in the order of its tasks; only the newest of each task."""
        ...

    def list_deliveries(
        self,
        *,
        parent: ParentRef | None = None,
        run_id: str | None = None,
        states: Sequence[DeliveryState] = (),
        newest: int | None = None,
    ) -> list[DeliveryRecord]:
        """Outbox rows, oldest first; with `newest`, which goes with `states` alone, so many of the newest."""
        ...

    def mark_sent(self, delivery_ids: Sequence[str], *, actor: str, parcel: str | None = None) -> None:
        """Note that these were handed over (again), as one message that names `parcel`, else the last
        of them."""
        ...

    def acknowledge(self, delivery_ids: Sequence[str], *, actor: str) -> None:
        """Note that these stand on the parent's saved record."""
        ...

    def expire_deliveries(self, delivery_ids: Sequence[str], *, actor: str) -> None:
        """Note that these were given up because they are too old (`delivery.expired`); what they
        carry stays readable with the run. Acknowledged ones stay acknowledged."""
        ...

    def claim_notice(self, run_id: str, about: str, *, how: str, actor: str) -> bool:
        """Note, once, that whoever asks is going to tell a person of this (`notice.given`). False if
        somebody did or does so already."""
        ...

    # --- mail and control ---

    def send_message(
        self,
        run_id: str,
        *,
        sender: str,
        recipient: str,
        kind: MessageKind,
        body: str,
        hops: int = 0,
        reply_to: str | None = None,
        expires_at: float | None = None,
    ) -> MessageRecord:
        """Accept a message for delivery. After `expires_at` (seconds of the epoch) nobody takes it."""
        ...

    def take_messages(
        self,
        run_id: str,
        recipient: str,
        *,
        without: Sequence[MessageKind] = (),
        only: str | None = None,
    ) -> list[MessageRecord]:
        """The messages for this recipient that are still `accepted`, oldest first; they become
        `delivered`, and those whose time has passed `expired`. Kinds in `without` are left, and with
        `only` every message but that one."""
        ...

    def return_messages(self, lease: Lease, recipient: str, *, kept: Collection[str] = ()) -> None:
        """Mail that a lost session was given and did not keep is `accepted` again."""
        ...

    def replay_message(self, message_id: str, *, actor: str) -> MessageRecord:
        """A message that was delivered and never read is `accepted` again. One that is accepted stays so;
        a settled one raises `IllegalTransition`."""
        ...

    def acknowledge_message(self, message_id: str, *, actor: str) -> MessageRecord:
        """Somebody says that a message is settled: it is `read`, and nobody is given it. One that expired
        or is dead raises `IllegalTransition`."""
        ...

    def settle_message(self, message_id: str, state: MessageState, *, reason: str | None = None) -> None:
        """Note that a message was read, expired or is dead."""
        ...

    def load_message(self, message_id: str) -> MessageRecord:
        """One message as it stands. Raises `UnknownName`."""
        ...

    def list_messages(self, run_id: str, *, unread_by: str | None = None) -> list[MessageRecord]:
        """All mail of a run, or what this recipient has not read of it, oldest first."""
        ...

    def request_control(
        self,
        run_id: str,
        verb: ControlVerb,
        *,
        actor: str,
        task_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
        message_id: str | None = None,
    ) -> ControlRecord:
        """Ask the run's supervisor for something, with `control.requested`."""
        ...

    def load_control(self, control_id: str) -> ControlRecord:
        """One request as it stands. Raises `UnknownName`."""
        ...

    def pending_controls(self, run_id: str) -> list[ControlRecord]:
        """Requests not answered yet, oldest first."""
        ...

    def answer_control(
        self,
        lease: Lease,
        control_id: str,
        *,
        refused: str | None,
        actor: str,
        outcome: ReceiptOutcome | None = None,
        note: str | None = None,
    ) -> None:
        """Note that a request was carried out, or refused with the reason. `outcome` is what became
        of its message, `note` what there is to say about it."""
        ...

    # --- journal, transcript, events, artifacts ---

    def begin_tool_call(
        self, lease: Lease, attempt_id: str, tool: str, effect: Effect, arguments: str
    ) -> str:
        """Journal a call before it is made. Returns its id."""
        ...

    def end_tool_call(self, call_id: str, *, error: str | None, cancelled: bool) -> None:
        """Journal how it ended."""
        ...

    def list_tool_calls(self, attempt_id: str) -> list[ToolCallRecord]:
        """The journalled calls of an attempt, oldest first."""
        ...

    def append_transcript(self, lease: Lease, session_id: str, entries: Sequence[TranscriptEntry]) -> None:
        """Append to a session's transcript. `seq` and `at` of the entries are set here. Bodies
        over 16 KB are files and come back whole from `read_transcript`."""
        ...

    def read_transcript(self, session_id: str, *, after_seq: int = 0) -> list[TranscriptEntry]:
        """A session's transcript from an entry on."""
        ...

    def append_events(
        self, lease: Lease | None, run_id: str, events: Sequence[NewEvent]
    ) -> list[EventRecord]:
        """Append events that go with no other change. An unknown type raises `ValueError`.
        `lease` is None only for writers that are not the supervisor (`caller`, `host`)."""
        ...

    def tail(self, run_id: str | None, *, after_seq: int = 0, limit: int = 1000) -> list[EventRecord]:
        """Events of a run (or of all runs) after a sequence number, oldest first. Where events are not
        kept there is one `events.left_out`, which says how many and why."""
        ...

    def last_seq(self) -> int:
        """The number of the newest event; 0 before the first."""
        ...

    def put_artifact(
        self,
        run_id: str,
        name: str,
        body: bytes,
        *,
        task_id: str | None = None,
        media_type: str = "text/plain",
        log: bool = False,
    ) -> ArtifactRef:
        """Store a body under its hash, and its reference: one of at most 16 KB inside the store, a
        longer one as a file that is safe (write, fsync, rename) before anything names it. Of a `log`
        the secrets are taken out before it is hashed; all else is kept byte for byte."""
        ...

    def read_artifact(self, sha256: str) -> bytes:
        """A body. A hash prefix of at least eight characters is accepted. Raises `UnknownName`;
        a body that is not kept any more raises `BodyRemoved`, one whose hash does not match any more
        `CrewError`."""
        ...

    def list_artifacts(self, run_id: str) -> list[ArtifactRef]:
        """The artifacts of a run in the order they were stored; those whose bodies were removed say so."""
        ...

    def data_version(self) -> int:
        """A number that changes when another process or connection changed the store."""
        ...
