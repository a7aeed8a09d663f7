"""What every `RunStore` must do. A store joins by subclassing and providing two fixtures."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest

from crew_plugin.errors import (
    CrewError,
    Fenced,
    IllegalTransition,
    InvalidPlan,
    InvalidValue,
    LeaseHeld,
    NotAllowed,
    UnknownName,
)
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind, MessageState, ReceiptOutcome
from crew_plugin.models.questions import NewQuestion, QuestionState
from crew_plugin.models.records import (
    AttemptRecord,
    ControlVerb,
    Counts,
    DeadLetterState,
    DeliveryState,
    Effect,
    EventRecord,
    GaveUp,
    Lease,
    NewEvent,
    NewResult,
    NewRun,
    NewTask,
    Owner,
    ParentRef,
    RunRecord,
    TaskRecord,
    ToolCallState,
    TranscriptEntry,
    Usage,
)
from crew_plugin.models.states import (
    ATTEMPT_TERMINAL,
    RUN_TERMINAL,
    RUN_TRANSITIONS,
    AttemptState,
    RunState,
    SessionKind,
    TaskState,
)
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.port import RunStore
from tests.store.processes import dead_process, live_process

PARENT = ParentRef(host="bub", session="chat", route={"channel": "cli"})
NEW_QUESTION = NewQuestion(text="which one?", choices=("yes", "no"), expires_at=9e9)
CAUSE = Cause(code=CauseCode.MODEL_ERROR, message="the model failed", detail="trace")


def new_run(*, background: bool = False, parent: ParentRef | None = None, goal: str = "look") -> NewRun:
    return NewRun(
        goal=goal,
        team="review",
        workflow="review",
        cwd="/src",
        spec=json.dumps({"width": 4, "runtime": "live"}),
        background=background,
        parent=parent,
    )


def new_task(key: str, *depends_on: str, max_dispatches: int = 3) -> NewTask:
    return NewTask(
        key=key,
        title=f"Do {key}",
        role="reviewer",
        agent="reviewer",
        depends_on=depends_on,
        max_dispatches=max_dispatches,
    )


def create(store: RunStore, *keys: str, owed: bool = False) -> RunRecord:
    run = new_run(background=True, parent=PARENT) if owed else new_run()
    return store.create_run(run, [new_task(key) for key in keys or ("one",)], actor="cli")


def running(store: RunStore, *keys: str, owed: bool = False) -> Lease:
    lease = store.claim(create(store, *keys, owed=owed).id, current_owner())
    store.transition_run(lease, RunState.RUNNING, actor="supervisor")
    return lease


def start(store: RunStore, lease: Lease, key: str = "one") -> AttemptRecord:
    return store.start_attempt(
        lease,
        store.load_task(lease.run_id, key).id,
        kind=SessionKind.LIVE,
        engine="fake",
        model="small",
        cwd="/src",
        actor="supervisor",
    )


def complete(store: RunStore, lease: Lease, key: str = "one") -> TaskRecord:
    attempt = start(store, lease, key)
    store.accept_result(lease, attempt.id, NewResult(summary=f"{key} done"), actor="session")
    return store.end_attempt(
        lease, attempt.id, AttemptState.COMPLETED, task_state=TaskState.COMPLETED, actor="supervisor"
    )


def create_and_fail(store: RunStore) -> None:
    with store.transaction():
        create(store)
        raise ZeroDivisionError


def types(events: list[EventRecord]) -> list[str]:
    return [event.type for event in events]


@pytest.fixture(scope="module")
def dead_owner() -> Owner:
    """A process that has ended."""
    return dead_process()


@pytest.fixture
def live_owner() -> Iterator[Owner]:
    """Another process that lives as long as the test."""
    with live_process() as owner:
        yield owner


class RunStoreContract:
    """Joined by `class TestMyStore(RunStoreContract)` with fixtures `store` and `reopen`: an empty
    store, and a function that opens the same store once more."""

    # --- runs ---

    def test_a_created_run_is_found_with_its_tasks_queued(self, store: RunStore) -> None:
        run = store.create_run(
            new_run(background=True, parent=PARENT), [new_task("a"), new_task("b", "a")], actor="cli"
        )

        assert store.load_run(run.id) == run
        assert (run.state, run.parent, run.epoch, run.owner) == (RunState.QUEUED, PARENT, 0, None)
        assert run.task_counts == {TaskState.QUEUED: 2}
        a, b = store.load_tasks(run.id)
        assert [(a.key, a.position), (b.key, b.position)] == [("a", 0), ("b", 1)]
        assert (b.depends_on, b.state, b.attempts) == (("a",), TaskState.QUEUED, 0)
        (event,) = store.tail(run.id)
        assert (event.type, event.actor) == ("run.created", "cli")
        assert event.data == {"team": "review", "workflow": "review", "tasks": ["a", "b"]}

    @pytest.mark.parametrize(
        "tasks", [[new_task("a"), new_task("a")], [new_task("a", "nowhere")]], ids=["twice", "dangling"]
    )
    def test_a_run_with_impossible_tasks_is_refused_before_anything_is_written(
        self, store: RunStore, tasks: list[NewTask]
    ) -> None:
        with pytest.raises(InvalidPlan):
            store.create_run(new_run(), tasks, actor="cli")

        assert store.list_runs() == []
        assert store.tail(None) == []

    @pytest.mark.parametrize(
        "goal", ["x" * 1_000_000, "🦀\u200d🚀 日本語", "{goal}\n---\na: b\n---", "a\0b", ""]
    )
    def test_a_goal_is_kept_to_the_letter(self, store: RunStore, goal: str) -> None:
        run = store.create_run(new_run(goal=goal), [], actor="cli")

        assert store.load_run(run.id).goal == goal

    def test_half_a_surrogate_pair_is_replaced_and_never_fatal(self, store: RunStore) -> None:
        run = store.create_run(new_run(goal="so \ud83d so"), [], actor="cli")

        assert store.load_run(run.id).goal == "so ? so"

    def test_a_run_is_found_by_a_unique_part_of_its_id_and_as_the_last(self, store: RunStore) -> None:
        first, second = create(store), create(store)

        assert store.load_run(first.id[-4:]).id == first.id
        assert store.load_run(second.id[:-1]).id == second.id
        assert store.load_run("last").id == second.id

    def test_a_part_of_an_id_that_fits_two_runs_is_refused(self, store: RunStore) -> None:
        first, _ = create(store), create(store)

        with pytest.raises(InvalidValue, match=first.id):
            store.load_run("run_")

    @pytest.mark.parametrize("part", ["", "run", "nonsense", "%", "____", "last"])
    def test_an_unknown_run_is_an_error_that_a_person_can_read(self, store: RunStore, part: str) -> None:
        with pytest.raises(UnknownName, match="there is no run"):
            store.load_run(part)

    def test_an_unknown_run_names_the_nearest_ids(self, store: RunStore) -> None:
        run = create(store)
        mistyped = run.id[:-6] + "000000"

        with pytest.raises(UnknownName, match=f"did you mean '{run.id}'"):
            store.load_run(mistyped)

    def test_runs_are_listed_newest_first_by_state_and_parent(self, store: RunStore) -> None:
        plain, owed = create(store), create(store, owed=True)
        lease = store.claim(plain.id, current_owner())
        store.transition_run(lease, RunState.CANCELLED, actor="cli", cause=CAUSE)

        assert [run.id for run in store.list_runs()] == [owed.id, plain.id]
        assert [run.id for run in store.list_runs(limit=1)] == [owed.id]
        assert [run.id for run in store.list_runs(states=[RunState.CANCELLED, RunState.FAILED])] == [plain.id]
        assert [run.id for run in store.list_runs(parent=PARENT)] == [owed.id]
        assert store.list_runs(parent=replace(PARENT, session="other")) == []

    @pytest.mark.parametrize("to", sorted(RunState))
    @pytest.mark.parametrize("current", sorted(RunState))
    def test_a_run_moves_only_along_its_table(self, store: RunStore, current: RunState, to: RunState) -> None:
        lease = store.claim(create(store, "one").id, current_owner())
        if current != RunState.QUEUED:
            store.transition_run(lease, RunState.RUNNING, actor="supervisor")
        if current == RunState.COMPLETED:
            complete(store, lease)
        store.transition_run(lease, current, actor="supervisor")
        before = store.tail(None)

        if to == current:
            assert store.transition_run(lease, to, actor="supervisor").state == current
            assert store.tail(None) == before
        elif to in RUN_TRANSITIONS[current] and to != RunState.COMPLETED:
            assert store.transition_run(lease, to, actor="supervisor").state == to
            assert len(store.tail(None)) == len(before) + 1
        else:
            with pytest.raises(IllegalTransition):
                store.transition_run(lease, to, actor="supervisor")
            assert store.tail(None) == before

    def test_a_run_with_unfinished_tasks_cannot_be_completed(self, store: RunStore) -> None:
        lease = running(store, "one", "two")
        complete(store, lease, "one")

        with pytest.raises(IllegalTransition, match="running with task 'two' queued"):
            store.transition_run(lease, RunState.COMPLETED, actor="supervisor")

        complete(store, lease, "two")
        run = store.transition_run(lease, RunState.COMPLETED, actor="supervisor")
        assert run.task_counts == {TaskState.COMPLETED: 2}

    @pytest.mark.parametrize("optional", [True, False])
    def test_only_an_optional_task_may_lack_its_result_in_a_completed_run(
        self, store: RunStore, optional: bool
    ) -> None:
        new = NewTask(key="one", title="One", role="r", agent="a", optional=optional)
        run = store.create_run(NewRun(goal="g", team="t", workflow="w", cwd="/", spec="{}"), [new], actor="t")
        lease = store.claim(run.id, current_owner())
        store.transition_run(lease, RunState.RUNNING, actor="supervisor")
        task = store.load_task(run.id, "one")
        store.transition_task(lease, task.id, TaskState.CANCELLED, actor="supervisor", cause=CAUSE)

        if optional:
            assert store.transition_run(lease, RunState.COMPLETED, actor="t").state is RunState.COMPLETED
        else:
            with pytest.raises(IllegalTransition, match="running with task 'one' cancelled"):
                store.transition_run(lease, RunState.COMPLETED, actor="t")

    def test_a_started_run_tells_how_it_runs(self, store: RunStore) -> None:
        lease = running(store)

        assert store.tail(lease.run_id)[-1].data == {"width": 4, "runtime": "live"}
        assert store.load_run(lease.run_id).started_at is not None

    def test_an_ended_run_keeps_its_cause_and_lets_its_lease_go(self, store: RunStore) -> None:
        lease = running(store)

        run = store.transition_run(lease, RunState.FAILED, actor="supervisor", cause=CAUSE)

        assert (run.cause, run.owner) == (CAUSE, None)
        assert run.ended_at is not None
        assert store.tail(run.id)[-1].cause == CAUSE

    # --- lease ---

    def test_a_claim_gives_a_new_epoch_and_fences_the_one_before(self, store: RunStore) -> None:
        old = running(store)
        new = store.claim(old.run_id, current_owner(), force=True)

        assert new.epoch == old.epoch + 1
        with pytest.raises(Fenced):
            store.transition_run(old, RunState.CANCELLED, actor="supervisor")
        assert store.load_run(old.run_id).state == RunState.RUNNING
        assert store.tail(old.run_id)[-1].data["takeover"] is True

    def test_every_change_under_an_old_epoch_is_fenced_and_writes_nothing(self, store: RunStore) -> None:
        old = running(store, "one", "two")
        attempt = start(store, old)
        control = store.request_control(old.run_id, ControlVerb.CANCEL, actor="cli")
        store.claim(old.run_id, current_owner(), force=True)
        task_id = store.load_task(old.run_id, "two").id
        changes: list[Callable[[], object]] = [
            lambda: store.transition_run(old, RunState.FAILED, actor="x"),
            lambda: store.renew(old),
            lambda: store.release(old),
            lambda: start(store, old, "two"),
            lambda: store.open_session(old, attempt.id, host_session="temp/x", prompt=None),
            lambda: store.touch_attempt(old, attempt.id, usage=Usage(), steps=9, model_used="x"),
            lambda: store.end_attempt(
                old, attempt.id, AttemptState.FAILED, task_state=TaskState.FAILED, actor="x"
            ),
            lambda: store.transition_task(old, task_id, TaskState.SKIPPED, actor="x"),
            lambda: store.schedule_retry(old, task_id, 1.0, actor="x"),
            lambda: store.accept_result(old, attempt.id, NewResult(summary="late"), actor="x"),
            lambda: store.answer_control(old, control.id, refused=None, actor="x"),
            lambda: store.begin_tool_call(old, attempt.id, "read", Effect.PURE, "{}"),
            lambda: store.append_transcript(
                old, attempt.session_id, [TranscriptEntry(seq=0, role="note", content="x")]
            ),
            lambda: store.append_events(old, old.run_id, [NewEvent(type="session.note", actor="x")]),
        ]
        before = (
            store.tail(None),
            store.load_run(old.run_id),
            store.load_tasks(old.run_id),
            store.load_attempt(attempt.id),
        )

        for change in changes:
            with pytest.raises(Fenced):
                change()

        after = (
            store.tail(None),
            store.load_run(old.run_id),
            store.load_tasks(old.run_id),
            store.load_attempt(attempt.id),
        )
        assert after == before
        assert store.list_tool_calls(attempt.id) == []
        assert store.read_transcript(attempt.session_id) == []

    def test_the_lease_of_a_living_process_is_held(self, store: RunStore, live_owner: Owner) -> None:
        run = create(store)
        store.claim(run.id, live_owner)

        with pytest.raises(LeaseHeld, match=str(live_owner.pid)):
            store.claim(run.id, current_owner())
        assert store.load_run(run.id).owner == live_owner

    def test_the_lease_of_a_dead_process_can_be_claimed(self, store: RunStore, dead_owner: Owner) -> None:
        run = create(store)
        store.claim(run.id, dead_owner)

        lease = store.claim(run.id, current_owner())

        assert lease.epoch == 2
        assert store.load_run(run.id).owner == current_owner()

    def test_a_lease_that_stood_still_can_be_claimed_from_a_living_process(
        self, store: RunStore, live_owner: Owner
    ) -> None:
        run = create(store)
        held = store.claim(run.id, live_owner)
        seen = store.load_run(run.id).renewals
        store.renew(held, worked=2.5)

        with pytest.raises(LeaseHeld):
            store.claim(run.id, current_owner(), still=seen)
        lease = store.claim(run.id, current_owner(), still=seen + 1)

        assert lease.epoch == held.epoch + 1
        assert store.load_run(run.id).worked == 2.5
        with pytest.raises(Fenced):
            store.renew(held)

    def test_a_lost_supervisor_is_noted_once_for_each_epoch(self, store: RunStore, dead_owner: Owner) -> None:
        run = create(store)
        store.claim(run.id, dead_owner)

        noted = [store.note_lost(run.id, 1, how="gone", actor="x") for _ in range(2)]
        store.claim(run.id, dead_owner)
        late = store.note_lost(run.id, 1, how="gone", actor="x")
        again = store.note_lost(run.id, 2, how="gone", actor="x")

        assert (noted, late, again) == ([True, False], False, True)
        lost = [event.epoch for event in store.tail(run.id) if event.type == "run.supervisor_lost"]
        assert lost == [1, 2]

    def test_an_attempt_goes_on_under_a_new_lease_and_counts_only_without_progress(
        self, store: RunStore, dead_owner: Owner
    ) -> None:
        run = create(store)
        lost = store.claim(run.id, dead_owner)
        store.transition_run(lost, RunState.RUNNING, actor="supervisor")
        attempt = start(store, lost)
        lease = store.claim(run.id, current_owner())

        dispatches: list[int] = []
        for steps in (1, 2, 2):
            store.touch_attempt(lease, attempt.id, usage=Usage(calls=steps), steps=steps, model_used=None)
            resumed = store.resume_attempt(lease, attempt.id, actor="supervisor")
            dispatches.append(store.load_task(run.id, "one").dispatches)

        assert (resumed.id, resumed.epoch, resumed.steps) == (attempt.id, lease.epoch, 2)
        assert dispatches == [1, 1, 2]
        with pytest.raises(Fenced):
            store.resume_attempt(lost, attempt.id, actor="supervisor")
        store.resume_attempt(lease, attempt.id, actor="supervisor")
        with pytest.raises(IllegalTransition, match="3 of 3 dispatches"):
            store.resume_attempt(lease, attempt.id, actor="supervisor")

    def test_a_task_is_held_until_somebody_decides(self, store: RunStore) -> None:
        lease = running(store)
        task = start(store, lease).task_id

        held = store.hold_task(lease, task, "what about the mail?", actor="supervisor")
        free = store.free_task(lease, task, "continue", actor="operator")

        assert (held.hold, free.hold) == ("what about the mail?", None)
        told = [(event.type, event.actor) for event in store.tail(lease.run_id)[-2:]]
        assert told == [("task.held", "supervisor"), ("task.decided", "operator")]

    def test_mail_that_a_lost_session_did_not_keep_is_taken_again(self, store: RunStore) -> None:
        lease = running(store)
        sent = [
            store.send_message(
                lease.run_id, sender="parent", recipient="one", kind=MessageKind.MESSAGE, body=text
            )
            for text in ("kept", "lost")
        ]
        store.take_messages(lease.run_id, "one")

        store.return_messages(lease, "one", kept={sent[0].id})

        assert [message.body for message in store.take_messages(lease.run_id, "one")] == ["lost"]

    def test_mail_that_an_attempt_has_not_read_is_for_the_next_one(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        read, given, waits = (
            store.send_message(
                lease.run_id, sender="parent", recipient="one", kind=MessageKind.STEER, body=text
            ).id
            for text in ("read", "given", "waits")
        )
        store.settle_message(read, MessageState.READ)
        store.take_messages(lease.run_id, "one")
        store.return_messages(lease, "one", kept={given})

        store.end_attempt(lease, attempt.id, AttemptState.FAILED, task_state=None, actor="supervisor")

        states = [store.load_message(each).state for each in (read, given, waits)]
        assert states == [MessageState.READ, MessageState.ACCEPTED, MessageState.ACCEPTED]
        returned = [event for event in store.tail(lease.run_id) if event.type == "message.returned"]
        assert [event.data["message_id"] for event in returned] == [waits, given]

    def test_mail_for_a_task_that_is_not_tried_again_is_dead(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        store.end_attempt(lease, attempt.id, AttemptState.FAILED, task_state=None, actor="supervisor")
        message = store.send_message(
            lease.run_id, sender="two", recipient="one", kind=MessageKind.MESSAGE, body="hello"
        )

        store.transition_task(lease, attempt.task_id, TaskState.CANCELLED, actor="operator")

        dead = store.load_message(message.id)
        assert (dead.state, dead.reason) == (MessageState.DEAD, "one was not tried again (cancelled)")

    def test_results_of_a_run_that_nobody_waits_for_any_more_are_owed(self, store: RunStore) -> None:
        run = store.create_run(new_run(parent=PARENT), [new_task("one"), new_task("two")], actor="cli")
        lease = store.claim(run.id, current_owner())
        store.transition_run(lease, RunState.RUNNING, actor="supervisor")
        complete(store, lease)
        before = store.list_deliveries(run_id=run.id)

        for _ in range(2):
            store.owe_results(lease)
        complete(store, lease, "two")

        owed = [delivery.task_id for delivery in store.list_deliveries(run_id=run.id)]
        assert before == []
        assert owed == [store.load_task(run.id, key).id for key in ("one", "two")]

    @pytest.mark.parametrize("changes", [{"started": 1.0}, {"boot_id": "another boot"}])
    def test_a_pid_that_belongs_to_another_process_by_now_holds_nothing(
        self, store: RunStore, changes: dict[str, float | str]
    ) -> None:
        run = create(store)
        mine = current_owner()
        store.claim(
            run.id,
            Owner(
                pid=os.getpid(),
                started=float(changes.get("started", mine.started)),
                boot_id=str(changes.get("boot_id", mine.boot_id)),
            ),
        )

        assert store.claim(run.id, mine).epoch == 2

    def test_an_ended_run_cannot_be_claimed(self, store: RunStore) -> None:
        lease = running(store)
        store.transition_run(lease, RunState.CANCELLED, actor="cli")

        with pytest.raises(IllegalTransition):
            store.claim(lease.run_id, current_owner(), force=True)

    def test_renewals_count_up_over_all_owners(self, store: RunStore, dead_owner: Owner) -> None:
        run = create(store)
        first = store.claim(run.id, dead_owner)
        counts = [store.renew(first), store.renew(first)]
        second = store.claim(run.id, current_owner())
        counts.append(store.renew(second))

        assert counts == sorted(set(counts))
        assert store.load_run(run.id).renewals == counts[-1]

    def test_a_released_run_is_free_and_its_lease_worth_nothing(self, store: RunStore) -> None:
        lease = running(store)
        store.release(lease)

        assert store.load_run(lease.run_id).owner is None
        with pytest.raises(Fenced):
            store.renew(lease)
        assert store.claim(lease.run_id, current_owner()).epoch == 2

    # --- tasks and attempts ---

    def test_a_task_is_found_by_its_key_or_its_id(self, store: RunStore) -> None:
        run = create(store, "one", "two")
        task = store.load_task(run.id, "two")

        assert store.load_task(run.id, task.id) == task
        with pytest.raises(UnknownName, match="did you mean 'two'"):
            store.load_task(run.id, "tow")

    def test_a_started_attempt_counts_the_dispatch_and_has_a_session(self, store: RunStore) -> None:
        lease = running(store)

        attempt = start(store, lease)

        task = store.load_task(lease.run_id, "one")
        assert (task.state, task.dispatches, task.attempts) == (TaskState.RUNNING, 1, 1)
        assert task.attempt_id == attempt.id
        assert (attempt.number, attempt.state, attempt.epoch) == (1, AttemptState.RUNNING, lease.epoch)
        session = store.load_session(attempt.session_id)
        assert (session.attempt_id, session.kind, session.cwd) == (attempt.id, SessionKind.LIVE, "/src")
        assert store.open_attempts(lease.run_id) == [attempt]
        event = store.tail(lease.run_id)[-1]
        assert (event.type, event.attempt_id, event.data) == (
            "task.started",
            attempt.id,
            {"key": "one", "number": 1},
        )

    def test_a_task_has_one_open_attempt_at_a_time(self, store: RunStore) -> None:
        lease = running(store)
        start(store, lease)

        with pytest.raises(IllegalTransition, match="open attempt"):
            start(store, lease)

    def test_the_dispatch_cap_holds(self, store: RunStore) -> None:
        run = store.create_run(new_run(), [new_task("one", max_dispatches=2)], actor="cli")
        lease = store.claim(run.id, current_owner())
        for _ in range(2):
            attempt = start(store, lease)
            store.end_attempt(lease, attempt.id, AttemptState.FAILED, task_state=None, actor="supervisor")

        with pytest.raises(IllegalTransition, match="2 of 2 dispatches"):
            start(store, lease)

    def test_nothing_starts_in_an_ended_run(self, store: RunStore) -> None:
        lease = running(store)
        store.transition_run(lease, RunState.CANCELLED, actor="cli")

        with pytest.raises(IllegalTransition):
            start(store, lease)

    def test_completed_needs_an_accepted_result(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)

        with pytest.raises(IllegalTransition, match="without an accepted result"):
            store.end_attempt(
                lease, attempt.id, AttemptState.COMPLETED, task_state=TaskState.COMPLETED, actor="x"
            )
        with pytest.raises(IllegalTransition):
            store.end_attempt(
                lease, attempt.id, AttemptState.FAILED, task_state=TaskState.COMPLETED, actor="x"
            )
        with pytest.raises(IllegalTransition):
            store.transition_task(lease, attempt.task_id, TaskState.COMPLETED, actor="x")

        assert store.load_task(lease.run_id, "one").state == TaskState.RUNNING

    def test_a_result_that_reports_an_error_completes_nothing(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        store.accept_result(lease, attempt.id, NewResult(summary="", error="no access"), actor="session")

        with pytest.raises(IllegalTransition):
            store.end_attempt(
                lease, attempt.id, AttemptState.COMPLETED, task_state=TaskState.COMPLETED, actor="x"
            )
        task = store.end_attempt(
            lease, attempt.id, AttemptState.FAILED, task_state=TaskState.FAILED, actor="x", cause=CAUSE
        )
        assert (task.state, task.cause) == (TaskState.FAILED, CAUSE)

    def test_parts_of_a_result_are_kept_in_order_and_complete_nothing(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        store.add_section(lease, attempt.id, "found", ["a"], adds=True, actor="one")
        store.add_section(lease, attempt.id, "note", {"n": "x" * 40_000}, adds=False, actor="one")

        kept = store.list_sections(attempt.id)
        assert [(part.label, part.adds) for part in kept] == [("found", True), ("note", False)]
        bodies = [json.loads(store.read_artifact(part.body.sha256)) for part in kept]
        assert bodies == [["a"], {"n": "x" * 40_000}]
        told = [event.data for event in store.tail(lease.run_id) if event.type == "result.section"]
        assert [data["artifact"] for data in told] == [part.body.sha256 for part in kept]
        with pytest.raises(IllegalTransition, match="without an accepted result"):
            store.end_attempt(
                lease, attempt.id, AttemptState.COMPLETED, task_state=TaskState.COMPLETED, actor="x"
            )
        store.end_attempt(
            lease, attempt.id, AttemptState.FAILED, task_state=TaskState.FAILED, actor="x", cause=CAUSE
        )
        with pytest.raises(IllegalTransition):
            store.add_section(lease, attempt.id, "late", 1, adds=False, actor="one")

    def test_an_accepted_result_completes_its_task_with_one_event(self, store: RunStore) -> None:
        lease = running(store)

        task = complete(store, lease)

        assert task.state == TaskState.COMPLETED
        assert types(store.tail(lease.run_id))[-2:] == ["result.accepted", "task.completed"]
        assert store.tail(lease.run_id)[-1].data["result_id"] == store.list_results(lease.run_id)[0].id

    @pytest.mark.parametrize("state", sorted(ATTEMPT_TERMINAL - {AttemptState.COMPLETED}))
    def test_an_ended_attempt_absorbs(self, store: RunStore, state: AttemptState) -> None:
        lease = running(store)
        attempt = start(store, lease)
        ended = store.end_attempt(lease, attempt.id, state, task_state=None, actor="x", cause=CAUSE)
        before = store.tail(None)
        record = store.load_attempt(attempt.id)

        assert store.end_attempt(lease, attempt.id, state, task_state=None, actor="x") == ended
        store.touch_attempt(lease, attempt.id, usage=Usage(input=9), steps=9, model_used="late")
        for other in ATTEMPT_TERMINAL - {state}:
            with pytest.raises(IllegalTransition):
                store.end_attempt(lease, attempt.id, other, task_state=None, actor="x")
        with pytest.raises(IllegalTransition):
            store.accept_result(lease, attempt.id, NewResult(summary="late"), actor="x")

        assert store.tail(None) == before
        assert store.load_attempt(attempt.id) == record

    def test_a_second_attempt_follows_a_failed_one(self, store: RunStore) -> None:
        lease = running(store)
        first = start(store, lease)
        task = store.end_attempt(lease, first.id, AttemptState.FAILED, task_state=None, actor="x")
        assert task.state == TaskState.RUNNING
        due = store.schedule_retry(lease, task.id, 123.5, actor="x")
        assert due.retry_at == 123.5
        assert store.schedule_retry(lease, task.id, 123.5, actor="x") == due

        second = start(store, lease)

        assert (second.number, store.load_task(lease.run_id, "one").retry_at) == (2, None)
        assert [each.id for each in store.list_attempts(task.id)] == [first.id, second.id]
        assert types(store.tail(lease.run_id))[-3:] == ["attempt.ended", "task.retry_due", "task.started"]

    def test_a_retry_is_due_only_between_two_attempts(self, store: RunStore) -> None:
        lease = running(store, "one", "two")
        attempt = start(store, lease)

        for task_id in (attempt.task_id, store.load_task(lease.run_id, "two").id):
            with pytest.raises(IllegalTransition):
                store.schedule_retry(lease, task_id, 1.0, actor="x")

    def test_a_lost_attempt_says_so(self, store: RunStore, dead_owner: Owner) -> None:
        run = create(store)
        dead = store.claim(run.id, dead_owner)
        attempt = start(store, dead)
        lease = store.claim(run.id, current_owner())

        task = store.end_attempt(
            lease, attempt.id, AttemptState.LOST, task_state=TaskState.FAILED, actor="cli", cause=CAUSE
        )

        assert (task.state, store.load_attempt(attempt.id).state) == (TaskState.FAILED, AttemptState.LOST)
        assert types(store.tail(run.id))[-2:] == ["attempt.lost", "task.failed"]

    def test_a_waiting_task_keeps_its_attempt_and_goes_on(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        question = Cause(code=CauseCode.HELD, message="which one?")

        store.transition_task(lease, attempt.task_id, TaskState.WAITING, actor="session", cause=question)
        assert store.load_attempt(attempt.id).state == AttemptState.WAITING
        assert store.tail(lease.run_id)[-1].data == {"question": "which one?"}
        task = store.transition_task(lease, attempt.task_id, TaskState.RUNNING, actor="session")

        assert (task.state, task.attempt_id, task.cause) == (TaskState.RUNNING, attempt.id, None)
        assert store.load_attempt(attempt.id).state == AttemptState.RUNNING

    def test_a_question_is_answered_once_and_the_task_waits_until_it_is_closed(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        question = store.ask_question(lease, attempt.id, NEW_QUESTION, actor="one")
        assert (question.key, question.state) == ("one", QuestionState.OPEN)
        assert store.load_attempt(attempt.id).state == AttemptState.WAITING
        with pytest.raises(IllegalTransition):
            store.ask_question(lease, attempt.id, NEW_QUESTION, actor="one")
        with pytest.raises(InvalidValue, match="one of: yes, no; got 'perhaps'"):
            store.answer_question(question.id, "perhaps", by="operator")
        assert store.list_questions(lease.run_id, only_open=True) == [question]

        answered = store.answer_question(question.id, " YES", by="operator")

        assert (answered.state, answered.answer, answered.by) == (QuestionState.ANSWERED, "yes", "operator")
        with pytest.raises(NotAllowed, match="answered already, by operator"):
            store.answer_question(question.id, "no", by="somebody")
        assert store.load_task(lease.run_id, "one").state == TaskState.WAITING
        closed = store.close_question(lease, question.id, QuestionState.EXPIRED, actor="one")
        assert closed.state == QuestionState.ANSWERED
        assert store.load_task(lease.run_id, "one").state == TaskState.RUNNING
        assert types(store.tail(lease.run_id))[-3:] == ["task.waiting", "question.answered", "task.resumed"]

    def test_an_answer_counts_while_nobody_owns_the_run_but_a_stale_owner_asks_nothing(
        self, store: RunStore
    ) -> None:
        old = running(store)
        attempt = start(store, old)
        question = store.ask_question(old, attempt.id, NEW_QUESTION, actor="one")
        store.claim(old.run_id, current_owner(), force=True)
        with pytest.raises(Fenced):
            store.close_question(old, question.id, QuestionState.WITHDRAWN, actor="one")
        assert store.answer_question(question.id, "no", by="operator").answer == "no"

    def test_an_attempt_that_ends_withdraws_its_question(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        question = store.ask_question(lease, attempt.id, NEW_QUESTION, actor="one")
        store.end_attempt(
            lease, attempt.id, AttemptState.FAILED, task_state=TaskState.FAILED, actor="x", cause=CAUSE
        )
        assert store.load_question(question.id).state == QuestionState.WITHDRAWN
        with pytest.raises(NotAllowed, match="withdrawn, its session ended"):
            store.answer_question(question.id, "yes", by="operator")

    def test_an_ended_run_is_opened_again_under_a_new_epoch_with_what_was_skipped(
        self, store: RunStore
    ) -> None:
        run = store.create_run(
            new_run(), [new_task("a", max_dispatches=1), new_task("b", "a"), new_task("c")], actor="cli"
        )
        lease = store.claim(run.id, current_owner())
        store.transition_run(lease, RunState.RUNNING, actor="x")
        complete(store, lease, "c")
        failed = start(store, lease, "a")
        store.end_attempt(
            lease, failed.id, AttemptState.FAILED, task_state=TaskState.FAILED, actor="x", cause=CAUSE
        )
        store.transition_task(lease, store.load_task(run.id, "b").id, TaskState.SKIPPED, actor="x")
        store.transition_run(lease, RunState.FAILED, actor="x", cause=CAUSE)
        with pytest.raises(IllegalTransition, match="completed"):
            store.reopen_run(run.id, ["c"], actor="operator")

        opened = store.reopen_run(run.id, ["a"], actor="operator", spec='{"other": 1}')

        assert (opened.state, opened.cause, opened.owner, opened.ended_at) == (
            RunState.QUEUED,
            None,
            None,
            None,
        )
        assert (opened.epoch, opened.spec) == (lease.epoch + 1, '{"other": 1}')
        states = {task.key: task.state for task in store.load_tasks(run.id)}
        assert states == {"a": TaskState.QUEUED, "b": TaskState.QUEUED, "c": TaskState.COMPLETED}
        with pytest.raises(Fenced):
            store.append_events(lease, run.id, [])
        new = store.claim(run.id, current_owner())
        store.transition_run(new, RunState.RUNNING, actor="x")
        assert start(store, new, "a").number == 2
        assert [event.data["was"] for event in store.tail(run.id) if event.type == "task.requeued"] == [
            "failed",
            "skipped",
        ]

    def test_a_run_that_goes_on_has_its_failed_tasks_queued_in_place(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        store.end_attempt(
            lease, attempt.id, AttemptState.FAILED, task_state=TaskState.FAILED, actor="x", cause=CAUSE
        )
        (again,) = store.retry_tasks(lease, ["one"], actor="operator")
        assert (again.state, again.cause) == (TaskState.QUEUED, None)
        with pytest.raises(IllegalTransition, match="queued"):
            store.retry_tasks(lease, ["one"], actor="operator")
        with pytest.raises(IllegalTransition):
            store.reopen_run(lease.run_id, ["one"], actor="operator")

    def test_a_task_that_was_given_up_is_a_dead_letter_until_it_is_queued_again(
        self, store: RunStore
    ) -> None:
        lease = running(store, "one", "two")
        for key, gave_up in (("one", GaveUp.ATTEMPTS), ("two", None)):
            store.end_attempt(
                lease,
                start(store, lease, key).id,
                AttemptState.FAILED,
                task_state=TaskState.FAILED,
                actor="x",
                cause=CAUSE,
                gave_up=gave_up,
            )

        (letter,) = store.list_dead_letters()

        assert store.load_dead_letter(letter.id[-6:]) == letter
        assert (letter.run_id, letter.key, letter.attempts) == (lease.run_id, "one", 1)
        assert (letter.reason, letter.cause, letter.state) == (GaveUp.ATTEMPTS, CAUSE, DeadLetterState.OPEN)
        assert types(store.tail(lease.run_id))[-4:-1] == ["task.failed", "task.given_up", "task.started"]
        store.retry_tasks(lease, ["one", "two"], actor="operator")
        requeued = store.load_dead_letter(letter.id)
        assert (requeued.state, requeued.closed_by) == (DeadLetterState.REQUEUED, "operator")
        assert store.list_dead_letters(lease.run_id, states=[DeadLetterState.OPEN]) == []
        told = [event.data for event in store.tail(lease.run_id) if event.type == "task.requeued"]
        assert [data.get("dead_letter_id") for data in told] == [letter.id, None]
        with pytest.raises(NotAllowed, match="is requeued: there is nothing to drop"):
            store.drop_dead_letter(letter.id, actor="operator", reason="")

    def test_a_dead_letter_is_dropped_once_and_its_task_stays(self, store: RunStore) -> None:
        lease = running(store)
        start(store, lease)
        (attempt,) = store.open_attempts(lease.run_id)
        store.end_attempt(lease, attempt.id, AttemptState.FAILED, task_state=None, actor="x", cause=CAUSE)
        task = store.transition_task(
            lease,
            attempt.task_id,
            TaskState.FAILED,
            actor="x",
            cause=CAUSE,
            gave_up=GaveUp.DISPATCHES,
        )
        (letter,) = store.list_dead_letters(lease.run_id)
        store.transition_run(lease, RunState.FAILED, actor="x", cause=CAUSE)

        dropped = store.drop_dead_letter(letter.id, actor="operator", reason="not worth it")

        assert (dropped.state, dropped.closed_by, dropped.note) == (
            DeadLetterState.DROPPED,
            "operator",
            "not worth it",
        )
        event = store.tail(lease.run_id)[-1]
        assert (event.type, event.actor, event.data["reason"]) == (
            "dead_letter.dropped",
            "operator",
            "not worth it",
        )
        assert store.drop_dead_letter(letter.id, actor="somebody", reason="again") == dropped
        assert store.tail(lease.run_id)[-1] == event
        assert store.load_task(lease.run_id, "one") == task
        with pytest.raises(UnknownName):
            store.load_dead_letter("dead_00000")

    @pytest.mark.parametrize("to", [TaskState.SKIPPED, TaskState.CANCELLED])
    def test_a_task_that_never_started_is_settled_once(self, store: RunStore, to: TaskState) -> None:
        lease = running(store)
        task_id = store.load_task(lease.run_id, "one").id

        task = store.transition_task(lease, task_id, to, actor="x", cause=CAUSE)
        before = store.tail(None)
        assert store.transition_task(lease, task_id, to, actor="x") == task
        assert store.tail(None) == before
        for other in set(TaskState) - {to}:
            with pytest.raises(IllegalTransition):
                store.transition_task(lease, task_id, other, actor="x")
        with pytest.raises(IllegalTransition):
            start(store, lease)

    def test_a_task_with_an_open_attempt_is_not_settled_behind_its_back(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)

        for to in (TaskState.FAILED, TaskState.CANCELLED, TaskState.NEEDS_ATTENTION):
            with pytest.raises(IllegalTransition, match="open attempt"):
                store.transition_task(lease, attempt.task_id, to, actor="x")

    def test_progress_is_kept_and_a_session_found_by_either_id(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        prompt = store.put_artifact(lease.run_id, "prompt", b"do it", task_id=attempt.task_id)
        usage = Usage(input=10, output=2, cached=4, calls=1, cost=0.25)

        store.open_session(lease, attempt.id, host_session="temp/abc", prompt=prompt)
        counts = Counts(
            turns=1, tool_calls=3, tool_errors=2, recent=4, recent_errors=2, context=90, window=100
        )
        store.touch_attempt(lease, attempt.id, usage=usage, steps=1, model_used="small-1", counts=counts)
        store.touch_attempt(lease, attempt.id, usage=usage + usage, steps=2, model_used=None)

        touched = store.load_attempt(attempt.id)
        assert (attempt.counts, touched.counts) == (Counts(), counts)
        assert (touched.usage, touched.steps, touched.model_used) == (usage + usage, 2, "small-1")
        assert store.load_session("temp/abc") == store.load_session(attempt.session_id)
        assert store.load_session("temp/abc").prompt == prompt

    def test_what_an_ended_attempt_uses_later_is_added(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        usage = Usage(input=10, output=2, cached=4, calls=1, cost=0.25)
        store.touch_attempt(lease, attempt.id, usage=usage, steps=1, model_used="small-1")
        store.end_attempt(lease, attempt.id, AttemptState.FAILED, task_state=TaskState.FAILED, actor="x")

        store.add_usage(lease, attempt.id, usage=Usage(input=1, calls=1, cost=0.5), steps=1)

        now = store.load_attempt(attempt.id)
        assert (now.usage, now.steps) == (Usage(input=11, output=2, cached=4, calls=2, cost=0.75), 2)

    @pytest.mark.parametrize("load", ["load_attempt", "load_session", "load_result"])
    def test_what_does_not_exist_is_unknown(self, store: RunStore, load: str) -> None:
        with pytest.raises(UnknownName):
            getattr(store, load)("nothing")

    def test_peers_are_the_other_tasks_those_that_can_be_talked_to_first(self, store: RunStore) -> None:
        lease = running(store, "me", "ended", "later", "now")
        ended = store.load_task(lease.run_id, "ended")
        start(store, lease, "now")
        store.transition_task(lease, ended.id, TaskState.CANCELLED, actor="x")

        everybody, total = store.list_peers(lease.run_id, "me", limit=None)
        assert [(peer.key, peer.state) for peer in everybody] == [
            ("now", TaskState.RUNNING),
            ("later", TaskState.QUEUED),
            ("ended", TaskState.CANCELLED),
        ]
        assert total == 3
        assert store.list_peers(lease.run_id, "me", limit=2) == (everybody[:2], 3)

    def test_a_lease_is_no_right_to_another_runs_tasks(self, store: RunStore) -> None:
        mine, other = running(store), running(store)
        attempt = start(store, other)

        with pytest.raises(UnknownName):
            store.end_attempt(mine, attempt.id, AttemptState.FAILED, task_state=None, actor="x")
        with pytest.raises(UnknownName):
            store.transition_task(mine, attempt.task_id, TaskState.CANCELLED, actor="x")
        with pytest.raises(UnknownName):
            store.append_transcript(mine, attempt.session_id, [])

    # --- results and the outbox ---

    def test_a_result_comes_back_whole(self, store: RunStore, reopen: Callable[[], RunStore]) -> None:
        lease = running(store)
        attempt = start(store, lease)
        given = NewResult(
            summary="found 🦀 two",
            data={"bugs": [1, None, {"deep": "x" * 10_000}]},
            artifacts={"patch": "--- a\n+++ b\n", "big": "y" * 100_000},
            flags=("overridden",),
        )

        result = store.accept_result(lease, attempt.id, given, actor="session")

        assert (result.summary, result.data, result.flags) == (given.summary, given.data, given.flags)
        again = reopen()
        assert again.load_result(result.id) == result
        assert json.loads(again.read_artifact(result.body.sha256))["data"] == given.data
        assert again.read_artifact(result.artifacts["big"].sha256) == b"y" * 100_000
        assert store.load_attempt(attempt.id).result_id == result.id

    def test_a_later_result_replaces_the_first_while_the_attempt_is_open(self, store: RunStore) -> None:
        lease = running(store, owed=True)
        attempt = start(store, lease)
        first = store.accept_result(lease, attempt.id, NewResult(summary="first"), actor="session")
        second = store.accept_result(lease, attempt.id, NewResult(summary="second"), actor="session")

        assert [result.id for result in store.list_results(lease.run_id)] == [second.id]
        assert store.load_attempt(attempt.id).result_id == second.id
        assert [each.result_id for each in store.list_deliveries()] == [second.id]
        assert store.load_result(first.id).summary == "first"

    def test_the_same_result_again_changes_nothing(self, store: RunStore) -> None:
        lease = running(store, owed=True)
        attempt = start(store, lease)
        first = store.accept_result(lease, attempt.id, NewResult(summary="same"), actor="session")
        before = store.tail(None)

        assert store.accept_result(lease, attempt.id, NewResult(summary="same"), actor="session") == first
        assert store.tail(None) == before

    def test_results_are_listed_in_the_order_of_tasks(self, store: RunStore) -> None:
        lease = running(store, "one", "two", "three")
        for key in ("three", "one", "two"):
            complete(store, lease, key)

        assert [result.summary for result in store.list_results(lease.run_id)] == [
            "one done",
            "two done",
            "three done",
        ]

    def test_a_background_run_owes_its_results_and_its_end(self, store: RunStore) -> None:
        lease = running(store, "one", "two", owed=True)
        complete(store, lease, "one")
        complete(store, lease, "two")
        store.transition_run(lease, RunState.COMPLETED, actor="supervisor")

        one, two, end = store.list_deliveries(parent=PARENT)
        assert [one.result_id, two.result_id, end.result_id] == [
            *(result.id for result in store.list_results(lease.run_id)),
            None,
        ]
        assert (end.task_id, end.parent, end.state, end.sends) == (None, PARENT, DeliveryState.PENDING, 0)

    @pytest.mark.parametrize("run", [new_run(parent=PARENT), new_run(background=True)])
    def test_a_foreground_run_and_one_without_parent_owe_nothing(self, store: RunStore, run: NewRun) -> None:
        lease = store.claim(store.create_run(run, [new_task("one")], actor="cli").id, current_owner())
        complete(store, lease)
        store.transition_run(lease, RunState.COMPLETED, actor="supervisor")

        assert store.list_deliveries() == []

    def test_a_delivery_is_sent_as_often_as_needed_and_acknowledged_once(self, store: RunStore) -> None:
        lease = running(store, owed=True)
        complete(store, lease)
        (delivery,) = store.list_deliveries(run_id=lease.run_id, states=[DeliveryState.PENDING])
        ids = [delivery.id]

        store.mark_sent(ids, actor="host")
        store.mark_sent(ids, actor="host")
        store.acknowledge(ids, actor="host")
        store.acknowledge(ids, actor="host")
        store.mark_sent(ids, actor="host")
        store.expire_deliveries(ids, actor="host")

        (settled,) = store.list_deliveries(states=[DeliveryState.ACKNOWLEDGED])
        assert settled.sends == 2
        assert types(store.tail(lease.run_id))[-3:] == [
            "delivery.sent",
            "delivery.sent",
            "delivery.acknowledged",
        ]
        with pytest.raises(UnknownName):
            store.mark_sent(["nothing"], actor="host")

    def test_a_delivery_that_is_too_old_expires_once(self, store: RunStore) -> None:
        lease = running(store, owed=True)
        complete(store, lease)
        ids = [delivery.id for delivery in store.list_deliveries()]

        store.expire_deliveries(ids, actor="host")
        store.expire_deliveries(ids, actor="host")

        assert [each.state for each in store.list_deliveries()] == [DeliveryState.EXPIRED]
        assert types(store.tail(lease.run_id)).count("delivery.expired") == 1

    def test_a_delivery_knows_the_message_it_was_sent_in_last(self, store: RunStore) -> None:
        lease = running(store, "one", "two", owed=True)
        complete(store, lease, "one")
        complete(store, lease, "two")
        one, two = (delivery.id for delivery in store.list_deliveries())
        assert [each.parcel for each in store.list_deliveries()] == [None, None]

        store.mark_sent([one, two], actor="host")
        assert [each.parcel for each in store.list_deliveries()] == [two, two]
        store.acknowledge([one], actor="host")
        store.mark_sent([one, two], actor="host", parcel="delivery_other")

        assert [each.parcel for each in store.list_deliveries()] == [two, "delivery_other"]
        assert store.tail(lease.run_id)[-1].data["parcel"] == "delivery_other"

    def test_the_background_runs_of_one_turn_are_a_group(self, store: RunStore) -> None:
        def asked(turn: str, session: str = "chat", *, background: bool = True) -> str:
            parent = ParentRef(host="test", session=session, route={"turn": turn, "channel": "x"})
            return store.create_run(
                new_run(parent=parent, background=background), [new_task("one")], actor="cli"
            ).id

        one, waited, two = asked("t1"), asked("t1", background=False), asked("t1")
        asked("t2"), asked("t11"), asked("t1", "other")
        alone = create(store, owed=True).id

        assert [run.id for run in store.list_group(one)] == [one, two]
        assert [run.id for run in store.list_group(two)] == [one, two]
        assert [run.id for run in store.list_group(waited)] == [one, waited, two]
        assert [run.id for run in store.list_group(alone)] == [alone]

    def test_of_many_that_want_to_tell_a_person_of_something_one_does(self, store: RunStore) -> None:
        run = create(store)
        other = create(store)

        told = [store.claim_notice(run.id, "ended@1", how="bell", actor="crew") for _ in range(3)]

        assert told == [True, False, False]
        assert types(store.tail(run.id)).count("notice.given") == 1
        assert store.claim_notice(run.id, "ended@11", how="bell", actor="crew")
        assert store.claim_notice(other.id, "ended@1", how="bell", actor="crew")

    # --- deletion of what no run owns ---

    def test_bodies_that_nothing_refers_to_are_listed_and_upkeep_is_written_down(
        self, store: RunStore
    ) -> None:
        lease = running(store)
        kept, gone = running(store), store.create_run(new_run(), [new_task("one")], actor="cli")
        used = store.put_artifact(kept.run_id, "kept", b"k" * 20_000)
        unused = store.put_artifact(gone.id, "gone", b"g" * 30_000)
        assert unused.sha256 not in store.unused_bodies()
        store.transition_run(
            store.claim(gone.id, current_owner()), RunState.CANCELLED, actor="cli", cause=CAUSE
        )
        store.forget_run(gone.id, actor="cli", reason="")

        assert dict(store.unused_bodies()) == {unused.sha256: 30_000}
        assert store.sweep_bodies() == (1, 30_000)
        assert not store.unused_bodies()
        assert store.read_artifact(used.sha256)
        assert store.load_run(lease.run_id)

        store.note_upkeep(actor="cli", reason="first", done={"bodies": 1})
        store.note_upkeep(actor="session:x", reason="", done={})
        assert [(each.actor, each.reason) for each in store.list_upkeep(limit=5)] == [
            ("session:x", ""),
            ("cli", "first"),
        ]
        assert store.list_upkeep(limit=5)[-1].done == {"bodies": 1}

    # --- mail and control ---

    def test_mail_is_taken_once_in_order_by_its_recipient(self, store: RunStore) -> None:
        run = create(store, "one", "two")
        sent = [
            store.send_message(run.id, sender="two", recipient="one", kind=MessageKind.MESSAGE, body=body)
            for body in ("first", "second")
        ]
        store.send_message(run.id, sender="one", recipient="two", kind=MessageKind.STEER, body="other")

        taken = store.take_messages(run.id, "one")

        assert [message.id for message in taken] == [message.id for message in sent]
        assert {message.state for message in taken} == {MessageState.DELIVERED}
        assert store.take_messages(run.id, "one") == []
        assert [message.body for message in store.list_messages(run.id)] == ["first", "second", "other"]

    def test_a_settled_message_stays_settled(self, store: RunStore) -> None:
        run = create(store)
        message = store.send_message(
            run.id, sender="operator", recipient="one", kind=MessageKind.STEER, body="stop"
        )
        store.settle_message(message.id, MessageState.EXPIRED, reason="too late")
        store.settle_message(message.id, MessageState.EXPIRED)

        assert store.take_messages(run.id, "one") == []
        with pytest.raises(IllegalTransition):
            store.settle_message(message.id, MessageState.READ)
        (kept,) = store.list_messages(run.id)
        assert (kept.state, kept.reason) == (MessageState.EXPIRED, "too late")
        assert types(store.tail(run.id)).count("message.failed") == 1

    def test_mail_to_sessions_dies_with_the_run_and_mail_to_people_does_not(self, store: RunStore) -> None:
        lease = running(store)
        for recipient in ("one", "parent", "operator"):
            store.send_message(
                lease.run_id, sender="two", recipient=recipient, kind=MessageKind.MESSAGE, body="hello"
            )
        store.transition_run(lease, RunState.CANCELLED, actor="cli")
        late = store.send_message(
            lease.run_id, sender="operator", recipient="one", kind=MessageKind.STEER, body="late"
        )

        states = {message.recipient: message.state for message in store.list_messages(lease.run_id)}
        assert states == {
            "one": MessageState.DEAD,
            "parent": MessageState.ACCEPTED,
            "operator": MessageState.ACCEPTED,
        }
        assert (late.state, late.reason) == (MessageState.DEAD, "the run is cancelled")
        assert [message.body for message in store.take_messages(lease.run_id, "parent")] == ["hello"]

    def test_mail_to_a_task_that_is_skipped_dies_with_it(self, store: RunStore) -> None:
        lease = running(store, "one", "two")
        for recipient in ("one", "two"):
            store.send_message(
                lease.run_id, sender="x", recipient=recipient, kind=MessageKind.MESSAGE, body="hello"
            )
        skipped = store.load_task(lease.run_id, "one")
        store.transition_task(lease, skipped.id, TaskState.SKIPPED, actor="supervisor")

        dead, waiting = store.list_messages(lease.run_id)
        assert (dead.state, dead.reason) == (MessageState.DEAD, "one never started (skipped)")
        assert waiting.state is MessageState.ACCEPTED

    def test_mail_whose_time_has_passed_is_taken_by_nobody(self, store: RunStore) -> None:
        run = create(store)
        for body, expires_at in (("old", 1.0), ("new", 32_000_000_000.0)):
            store.send_message(
                run.id,
                sender="two",
                recipient="one",
                kind=MessageKind.MESSAGE,
                body=body,
                expires_at=expires_at,
            )

        assert [message.body for message in store.take_messages(run.id, "one")] == ["new"]
        old, _ = store.list_messages(run.id)
        assert old.state is MessageState.EXPIRED

    def test_mail_of_kinds_that_are_not_wanted_yet_is_left(self, store: RunStore) -> None:
        run = create(store)
        for kind in (MessageKind.FOLLOW_UP, MessageKind.STEER):
            store.send_message(run.id, sender="operator", recipient="one", kind=kind, body=kind)

        first = store.take_messages(run.id, "one", without=[MessageKind.FOLLOW_UP])
        assert [message.body for message in first] == ["steer"]
        assert [message.body for message in store.take_messages(run.id, "one")] == ["follow_up"]

    def test_a_control_request_is_answered_once(self, store: RunStore) -> None:
        lease = running(store)
        first = store.request_control(
            lease.run_id, ControlVerb.STEER, actor="cli", task_id="t", payload={"text": "go"}
        )
        second = store.request_control(lease.run_id, ControlVerb.CANCEL, actor="cli")
        assert store.pending_controls(lease.run_id) == [first, second]
        assert (first.payload, first.task_id) == ({"text": "go"}, "t")

        store.answer_control(lease, first.id, refused=None, actor="supervisor")
        store.answer_control(lease, second.id, refused="too late", actor="supervisor")
        store.answer_control(lease, second.id, refused="too late", actor="supervisor")

        assert store.pending_controls(lease.run_id) == []
        with pytest.raises(IllegalTransition):
            store.answer_control(lease, second.id, refused=None, actor="supervisor")
        assert types(store.tail(lease.run_id))[-2:] == ["control.applied", "control.refused"]

    def test_the_answer_to_a_request_says_what_became_of_its_message(self, store: RunStore) -> None:
        lease = running(store)
        message = store.send_message(
            lease.run_id, sender="operator", recipient="a", kind=MessageKind.STEER, body="go"
        )
        asked = store.request_control(
            lease.run_id, ControlVerb.STEER, actor="cli", message_id=message.id, payload={"force": True}
        )

        store.answer_control(
            lease, asked.id, refused=None, actor="x", outcome=ReceiptOutcome.QUEUED, note="it has not begun"
        )

        now = store.load_control(asked.id)
        assert (now.outcome, now.answer, now.message_id) == (
            ReceiptOutcome.QUEUED,
            "it has not begun",
            message.id,
        )
        requested, applied = store.tail(lease.run_id)[-2:]
        assert (requested.data["force"], requested.data["message_id"]) == (True, message.id)
        assert (applied.data["outcome"], applied.data["reason"]) == ("queued", "it has not begun")
        assert store.load_message(message.id) == message
        for load in (store.load_control, store.load_message):
            with pytest.raises(UnknownName):
                load("nothing")

    def test_what_sessions_of_a_run_started_is_found(self, store: RunStore) -> None:
        lease = running(store)
        attempt = start(store, lease)
        store.open_session(lease, attempt.id, host_session="temp/child", prompt=None)
        parent = ParentRef(host="bub", session="temp/child")
        new = NewRun(goal="g", team="t", workflow="w", cwd="/", spec="{}", parent=parent)
        started = store.create_run(new, [NewTask(key="a", title="", role="r", agent="a")], actor="x")

        assert store.list_started(lease.run_id) == [started]
        assert store.list_started(started.id) == []

    @pytest.mark.parametrize("state", sorted(RUN_TERMINAL - {RunState.COMPLETED}))
    def test_nothing_can_be_asked_of_an_ended_run(self, store: RunStore, state: RunState) -> None:
        lease = running(store)
        store.transition_run(lease, state, actor="cli")

        with pytest.raises(IllegalTransition):
            store.request_control(lease.run_id, ControlVerb.CANCEL, actor="cli")

    # --- journal, transcript, events, artifacts ---

    @pytest.mark.parametrize(
        ("error", "cancelled", "state"),
        [
            (None, False, ToolCallState.DONE),
            ("no such file", False, ToolCallState.FAILED),
            (None, True, ToolCallState.CANCELLED),
        ],
    )
    def test_a_tool_call_is_journalled_before_and_after(
        self, store: RunStore, error: str | None, cancelled: bool, state: ToolCallState
    ) -> None:
        lease = running(store)
        attempt = start(store, lease)

        call = store.begin_tool_call(lease, attempt.id, "bash", Effect.EXTERNAL, '{"cmd": "' + "x" * 9999)
        (begun,) = store.list_tool_calls(attempt.id)
        assert (begun.state, begun.effect, begun.ended_at) == (ToolCallState.STARTED, Effect.EXTERNAL, None)
        assert len(begun.arguments) <= 4096
        store.end_tool_call(call, error=error, cancelled=cancelled)
        store.end_tool_call(call, error="again", cancelled=False)

        (ended,) = store.list_tool_calls(attempt.id)
        assert (ended.id, ended.state, ended.error) == (call, state, error)
        with pytest.raises(UnknownName):
            store.end_tool_call("nothing", error=None, cancelled=False)

    def test_a_transcript_comes_back_whole_and_in_order(
        self, store: RunStore, reopen: Callable[[], RunStore]
    ) -> None:
        lease = running(store)
        attempt = start(store, lease)
        calls = {"tool_calls": [{"id": "c", "name": "write", "arguments": "z" * 9000}]}
        entries = [
            TranscriptEntry(seq=0, role="user", content="short"),
            TranscriptEntry(seq=0, role="tool", content="é" * 50_000, data={"call_id": "c"}),
            TranscriptEntry(seq=0, role="assistant", content="", data=calls),
        ]
        store.append_transcript(lease, attempt.session_id, entries[:1])
        store.append_transcript(lease, attempt.session_id, entries[1:])

        read = reopen().read_transcript(attempt.session_id)

        assert [entry.seq for entry in read] == [1, 2, 3]
        assert [(e.role, e.content, e.data) for e in read] == [(e.role, e.content, e.data) for e in entries]
        assert all(entry.at > 0 for entry in read)
        assert [e.seq for e in store.read_transcript(attempt.session_id, after_seq=2)] == [3]

    def test_events_are_numbered_over_all_runs_and_read_from_any_point(self, store: RunStore) -> None:
        first, second = running(store), running(store)
        notes = [NewEvent(type="session.note", actor="s", data={"text": str(n)}) for n in range(3)]

        appended = store.append_events(second, second.run_id, notes)

        seqs = [event.seq for event in store.tail(None)]
        assert seqs == sorted(set(seqs))
        assert store.tail(second.run_id, after_seq=appended[0].seq) == appended[1:]
        assert store.tail(None, after_seq=appended[0].seq, limit=1) == appended[1:2]
        assert {event.run_id for event in store.tail(first.run_id)} == {first.run_id}
        assert {event.epoch for event in appended} == {second.epoch}

    def test_an_event_is_undone_with_its_part_of_a_transaction(self, store: RunStore) -> None:
        run = create(store)

        def note(text: str) -> None:
            event = NewEvent(type="session.note", actor="x", data={"text": text})
            store.append_events(None, run.id, [event])

        with store.transaction():
            note("before")
            with pytest.raises(ZeroDivisionError), store.transaction():  # noqa: PT012 - a block is what is undone
                note("undone")
                raise ZeroDivisionError
            note("after")
            inside = store.tail(run.id)

        assert [event.data.get("text") for event in inside] == [None, "before", "after"]
        assert store.tail(run.id) == inside
        assert len({event.seq for event in inside}) == 3

    def test_a_transaction_reads_what_it_changed_and_what_it_undid(self, store: RunStore) -> None:
        lease = running(store)
        (task,) = store.load_tasks(lease.run_id)

        def state() -> TaskState:
            return store.load_task(lease.run_id, task.id).state

        with store.transaction():
            before = state()
            with pytest.raises(ZeroDivisionError), store.transaction():  # noqa: PT012 - a block is what is undone
                store.transition_task(lease, task.id, TaskState.SKIPPED, actor="x")
                undone = state()
                raise ZeroDivisionError
            after = state()

        assert (before, undone, after) == (TaskState.QUEUED, TaskState.SKIPPED, TaskState.QUEUED)

    def test_who_holds_no_lease_appends_as_a_caller(self, store: RunStore) -> None:
        run = create(store)

        (event,) = store.append_events(None, run.id, [NewEvent(type="control.requested", actor="cli")])

        assert event.epoch == 0

    def test_an_unknown_event_type_is_refused_with_all_that_came_with_it(self, store: RunStore) -> None:
        run = create(store)
        events = [NewEvent(type="session.note", actor="x"), NewEvent(type="made.up", actor="x")]

        with pytest.raises(ValueError, match=r"made\.up"):
            store.append_events(None, run.id, events)
        assert types(store.tail(run.id)) == ["run.created"]

    def test_what_a_recipient_has_not_read_can_be_listed_alone(self, store: RunStore) -> None:
        lease = running(store)

        def send(recipient: str) -> str:
            return store.send_message(
                lease.run_id, sender="two", recipient=recipient, kind=MessageKind.MESSAGE, body="hello"
            ).id

        taken, read = send("one"), send("one")
        store.take_messages(lease.run_id, "one")
        store.settle_message(read, MessageState.READ)
        waiting = send("one")
        send("parent")

        unread = store.list_messages(lease.run_id, unread_by="one")
        assert [message.id for message in unread] == [taken, waiting]

    @pytest.mark.parametrize("size", [0, 16 * 1024, 16 * 1024 + 1])
    def test_short_and_long_bodies_come_back_whole(self, store: RunStore, size: int) -> None:
        ref = store.put_artifact(create(store).id, "log", b"x" * size)

        assert (ref.size, store.read_artifact(ref.sha256[:12])) == (size, b"x" * size)

    def test_artifacts_are_kept_by_content_and_listed_by_name(self, store: RunStore) -> None:
        run = create(store)
        body = bytes(range(256)) * 100

        ref = store.put_artifact(run.id, "log", body, media_type="application/octet-stream")
        again = store.put_artifact(run.id, "log", body, media_type="application/octet-stream")
        other = store.put_artifact(run.id, "copy", body)

        assert ref == again
        assert store.list_artifacts(run.id) == [ref, other]
        assert store.read_artifact(ref.sha256) == body
        assert store.read_artifact(ref.sha256[:8].upper()) == body
        assert types(store.tail(run.id)).count("artifact.stored") == 2

    def test_an_unknown_or_too_short_hash_is_refused(self, store: RunStore) -> None:
        create(store)

        with pytest.raises(UnknownName):
            store.read_artifact("0" * 64)
        for text in ("abc", "zzzzzzzz", "../../etc"):
            with pytest.raises(InvalidValue):
                store.read_artifact(text)

    def test_an_artifact_of_an_unknown_run_is_refused(self, store: RunStore) -> None:
        with pytest.raises(UnknownName):
            store.put_artifact("nowhere", "log", b"x")

    # --- transactions ---

    def test_a_transaction_is_all_or_nothing(self, store: RunStore) -> None:
        with pytest.raises(ZeroDivisionError):
            create_and_fail(store)

        assert store.list_runs() == []
        assert store.tail(None) == []

    def test_a_nested_transaction_undoes_only_itself(self, store: RunStore) -> None:
        with store.transaction():
            kept = create(store)
            with pytest.raises(ZeroDivisionError):
                create_and_fail(store)

        assert [run.id for run in store.list_runs()] == [kept.id]

    def test_a_refused_change_leaves_the_transaction_around_it_usable(self, store: RunStore) -> None:
        lease = running(store)
        with store.transaction():
            with pytest.raises(IllegalTransition):
                store.transition_run(lease, RunState.QUEUED, actor="x")
            start(store, lease)

        assert len(store.open_attempts(lease.run_id)) == 1

    def test_a_change_that_failed_half_way_is_never_committed_with_others(self, store: RunStore) -> None:
        run = create(store)

        def swallow_a_half_done_change() -> None:
            with store.transaction():
                create(store)
                with pytest.raises(AttributeError):
                    # A run whose tasks cannot be told of: its row and its tasks were written before.
                    store.create_run(new_run(), [new_task("one")], actor=cast("str", object()))

        with pytest.raises(CrewError, match="half of a change"):
            swallow_a_half_done_change()

        assert [each.id for each in store.list_runs()] == [run.id]
        assert types(store.tail(run.id)) == ["run.created"]

    def test_another_opening_sees_what_was_committed(
        self, store: RunStore, reopen: Callable[[], RunStore]
    ) -> None:
        other = reopen()
        version = other.data_version()
        lease = running(store)

        assert other.data_version() != version
        assert other.load_run(lease.run_id) == store.load_run(lease.run_id)
        assert other.tail(None) == store.tail(None)

    def test_closing_twice_is_no_error(self, store: RunStore) -> None:
        store.close()
        store.close()
