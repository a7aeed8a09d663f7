"""Whatever is done to a store, in whatever order, its events tell its rows."""

import tempfile
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from crew_plugin.errors import CrewError
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind, MessageState
from crew_plugin.models.questions import NewQuestion, QuestionState
from crew_plugin.models.records import ControlVerb, GaveUp, Lease, NewResult, Usage
from crew_plugin.models.states import AttemptState, RunState, SessionKind, TaskState
from crew_plugin.project import find_project
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.sqlite import SqliteStore
from tests.contracts.run_store import PARENT, new_run, new_task
from tests.store.fold import assert_events_tell_the_rows

picks = st.integers(min_value=0, max_value=5)
causes = st.none() | st.builds(Cause, code=st.sampled_from(CauseCode), message=st.text(max_size=10))


class StoreMachine(RuleBasedStateMachine):
    """Callers with old and new leases, late and early, lawful and not."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = SqliteStore.open(find_project(explicit=self.folder.name))
        self.leases: list[Lease] = []

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @initialize()
    def begin(self) -> None:
        for run in (new_run(), new_run(background=True, parent=PARENT)):
            self.store.create_run(
                run, [new_task("a", max_dispatches=2), new_task("b", "a"), new_task("c")], actor="cli"
            )
        self.leases += [self.store.claim(run.id, current_owner()) for run in self.store.list_runs()]

    def attempt(self, change: Callable[[], object]) -> None:
        """Try a change; a refusal must have written nothing."""
        before = self.store.tail(None)
        try:
            change()
        except CrewError:
            assert self.store.tail(None) == before

    def lease(self, pick: int) -> Lease:
        return self.leases[pick % len(self.leases)]

    def task_id(self, lease: Lease, pick: int) -> str:
        tasks = self.store.load_tasks(lease.run_id)
        return tasks[pick % len(tasks)].id

    def attempt_id(self, lease: Lease, pick: int) -> str:
        ids = [
            attempt.id
            for task in self.store.load_tasks(lease.run_id)
            for attempt in self.store.list_attempts(task.id)
        ]
        return ids[pick % len(ids)] if ids else "none"

    @rule(pick=picks, force=st.booleans())
    def claim(self, pick: int, force: bool) -> None:
        run_id = self.lease(pick).run_id

        def change() -> None:
            self.leases.append(self.store.claim(run_id, current_owner(), force=force))

        self.attempt(change)

    @rule(pick=picks)
    def release(self, pick: int) -> None:
        self.attempt(lambda: self.store.release(self.lease(pick)))

    @rule(pick=picks, to=st.sampled_from(RunState), cause=causes)
    def move_run(self, pick: int, to: RunState, cause: Cause | None) -> None:
        self.attempt(lambda: self.store.transition_run(self.lease(pick), to, actor="s", cause=cause))

    @rule(pick=picks, which=picks)
    def start(self, pick: int, which: int) -> None:
        lease = self.lease(pick)
        self.attempt(
            lambda: self.store.start_attempt(
                lease,
                self.task_id(lease, which),
                kind=SessionKind.LIVE,
                engine="fake",
                model=None,
                cwd="/",
                actor="s",
            )
        )

    @rule(
        pick=picks,
        which=picks,
        state=st.sampled_from(AttemptState),
        task_state=st.none() | st.sampled_from(TaskState),
        cause=causes,
        gave_up=st.none() | st.sampled_from(GaveUp),
    )
    def end(
        self,
        pick: int,
        which: int,
        state: AttemptState,
        task_state: TaskState | None,
        cause: Cause | None,
        gave_up: GaveUp | None,
    ) -> None:
        lease = self.lease(pick)
        self.attempt(
            lambda: self.store.end_attempt(
                lease,
                self.attempt_id(lease, which),
                state,
                task_state=task_state,
                actor="s",
                cause=cause,
                gave_up=gave_up,
            )
        )

    @rule(pick=picks, which=picks, fails=st.booleans())
    def complete(self, pick: int, which: int, fails: bool) -> None:
        lease = self.lease(pick)
        attempt_id = self.attempt_id(lease, which)
        result = NewResult(summary="s", artifacts={"p": "x"}, error="e" if fails else None)
        self.attempt(lambda: self.store.accept_result(lease, attempt_id, result, actor="s"))
        self.attempt(
            lambda: self.store.end_attempt(
                lease, attempt_id, AttemptState.COMPLETED, task_state=TaskState.COMPLETED, actor="s"
            )
        )

    @rule(pick=picks, which=picks, to=st.sampled_from(TaskState), cause=causes)
    def move_task(self, pick: int, which: int, to: TaskState, cause: Cause | None) -> None:
        lease = self.lease(pick)
        task_id = self.task_id(lease, which)
        self.attempt(lambda: self.store.transition_task(lease, task_id, to, actor="s", cause=cause))

    @rule(pick=picks, which=picks)
    def retry(self, pick: int, which: int) -> None:
        lease = self.lease(pick)
        self.attempt(lambda: self.store.schedule_retry(lease, self.task_id(lease, which), 5.0, actor="s"))

    @rule(pick=picks, which=picks)
    def touch(self, pick: int, which: int) -> None:
        lease = self.lease(pick)
        attempt_id = self.attempt_id(lease, which)
        self.attempt(
            lambda: self.store.touch_attempt(lease, attempt_id, usage=Usage(), steps=1, model_used="m")
        )

    @rule(pick=picks, recipient=st.sampled_from(["a", "parent"]))
    def send(self, pick: int, recipient: str) -> None:
        run_id = self.lease(pick).run_id
        self.attempt(
            lambda: self.store.send_message(
                run_id, sender="b", recipient=recipient, kind=MessageKind.MESSAGE, body="hello"
            )
        )

    @rule(pick=picks, recipient=st.sampled_from(["a", "parent"]))
    def take(self, pick: int, recipient: str) -> None:
        self.attempt(lambda: self.store.take_messages(self.lease(pick).run_id, recipient))

    @rule(pick=picks, which=picks, state=st.sampled_from(MessageState))
    def settle(self, pick: int, which: int, state: MessageState) -> None:
        mail = self.store.list_messages(self.lease(pick).run_id)
        if mail:
            self.attempt(lambda: self.store.settle_message(mail[which % len(mail)].id, state))

    @rule(pick=picks, which=picks)
    def put_a_question(self, pick: int, which: int) -> None:
        lease = self.lease(pick)
        question = NewQuestion(text="which?", choices=("x", "y"), expires_at=9e9)
        self.attempt(
            lambda: self.store.ask_question(lease, self.attempt_id(lease, which), question, actor="s")
        )

    @rule(pick=picks, which=picks, said=st.sampled_from("xyz"))
    def answer_a_question(self, pick: int, which: int, said: str) -> None:
        asked = self.store.list_questions(self.lease(pick).run_id)
        if asked:
            self.attempt(
                lambda: self.store.answer_question(asked[which % len(asked)].id, said, by="operator")
            )

    @rule(pick=picks, which=picks, state=st.sampled_from([QuestionState.EXPIRED, QuestionState.WITHDRAWN]))
    def close_a_question(self, pick: int, which: int, state: QuestionState) -> None:
        lease = self.lease(pick)
        asked = self.store.list_questions(lease.run_id)
        if asked:
            question = asked[which % len(asked)].id
            self.attempt(lambda: self.store.close_question(lease, question, state, actor="s"))

    @rule(pick=picks, key=st.sampled_from("abc"))
    def open_again(self, pick: int, key: str) -> None:
        self.attempt(lambda: self.store.reopen_run(self.lease(pick).run_id, [key], actor="operator"))

    @rule(pick=picks, key=st.sampled_from("abc"))
    def retry_in_place(self, pick: int, key: str) -> None:
        self.attempt(lambda: self.store.retry_tasks(self.lease(pick), [key], actor="operator"))

    @rule(pick=picks, which=picks)
    def drop(self, pick: int, which: int) -> None:
        letters = self.store.list_dead_letters(self.lease(pick).run_id)
        if letters:
            letter = letters[which % len(letters)].id
            self.attempt(lambda: self.store.drop_dead_letter(letter, actor="operator", reason="old"))

    @rule(pick=picks)
    def ask(self, pick: int) -> None:
        run_id = self.lease(pick).run_id
        self.attempt(lambda: self.store.request_control(run_id, ControlVerb.CANCEL, actor="cli"))

    @rule(pick=picks, refused=st.none() | st.just("no"))
    def answer(self, pick: int, refused: str | None) -> None:
        lease = self.lease(pick)
        pending = self.store.pending_controls(lease.run_id)
        if pending:
            self.attempt(lambda: self.store.answer_control(lease, pending[0].id, refused=refused, actor="s"))

    @rule(which=picks, step=st.sampled_from(["mark_sent", "acknowledge", "expire_deliveries"]))
    def deliver(self, which: int, step: str) -> None:
        owed = self.store.list_deliveries()
        if owed:
            change = getattr(self.store, step)
            self.attempt(lambda: change([owed[which % len(owed)].id], actor="host"))

    @invariant()
    def events_tell_the_rows(self) -> None:
        assert_events_tell_the_rows(self.store)


def walks(count: int) -> settings:
    return settings(
        max_examples=count,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def test_in_any_order_the_events_tell_the_rows() -> None:
    run_state_machine_as_test(StoreMachine, settings=walks(12))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_over_a_long_time_the_events_tell_the_rows() -> None:
    run_state_machine_as_test(StoreMachine, settings=walks(400))
