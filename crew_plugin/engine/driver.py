"""Driving one run from its claim to its end: look, decide, carry out, wait for the next thing."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import anyio
import anyio.abc
import anyio.lowlevel

from crew_plugin.engine import announce
from crew_plugin.engine.contact import Contact
from crew_plugin.engine.decide import decide, next_due, resource_waits, sequel
from crew_plugin.engine.dormant import go_on, is_answered
from crew_plugin.engine.hooks import Answer, Hooks
from crew_plugin.engine.places import Places
from crew_plugin.engine.ports import Outcome, TaskRunner
from crew_plugin.engine.requests import Requests, stops_run
from crew_plugin.engine.retry import changed_spec, keys_in
from crew_plugin.engine.returns import Returns
from crew_plugin.engine.runhooks import RunHooks
from crew_plugin.engine.settle import Settled, Stop, close_run, finish_run, settle_attempt, view_of
from crew_plugin.engine.slots import Slots
from crew_plugin.engine.snapshot import (
    Action,
    Block,
    Cancel,
    Finish,
    LastAttempt,
    Retry,
    RetryPolicy,
    Sequel,
    Skip,
    Snapshot,
    Start,
    TaskView,
)
from crew_plugin.engine.takeover import TakenOver, TakeOver, take_stock
from crew_plugin.engine.wakes import Wakes
from crew_plugin.engine.worker import RunContext, Work
from crew_plugin.errors import CrewError, Fenced, IllegalTransition, StateUnwritable
from crew_plugin.hookspecs import ConversationChanging, RunEnded, RunStarting
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageRecord
from crew_plugin.models.records import ControlRecord, Lease, Owner, RunRecord, TaskRecord
from crew_plugin.models.spec import RunSpec
from crew_plugin.models.states import RUN_TERMINAL, TASK_TERMINAL, AttemptState, RunState, TaskState
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["Driver", "Means"]

POLL_SECONDS = 0.05
"""How often requests of other processes are looked for."""
LAST_WORDS_SECONDS = 5.0
"""How long writing down the end of a broken run may take."""
ACTOR = "supervisor"

logger = logging.getLogger(__name__)

Write = Callable[[RunStore], TaskRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a supervisor gives to each of its drivers."""

    writer: StoreWriter
    hooks: Hooks
    slots: Slots
    owner: Owner
    retry: RetryPolicy
    renew_seconds: float
    """How often a lease is renewed."""
    most: int
    """Sessions that one run may have open at once, whatever it is asked for."""


class Driver:
    """Owns one run while it is driven. The only writer of the run, so what it last wrote is what
    it decides on; the store checks each change against the row and the epoch all the same."""

    def __init__(
        self,
        means: Means,
        run: RunRecord,
        spec: RunSpec,
        runner: TaskRunner,
        *,
        takes_over: TakeOver | None = None,
    ) -> None:
        self.run = run
        """The run as it was last written."""
        self.error: Exception | None = None
        """Why the run could not be driven to its end."""
        self.ended = anyio.Event()
        """The run's end is written down, or cannot be. Sessions may still be leaving."""
        self.gone = anyio.Event()
        """Every session is gone too."""
        self._means = means
        self._writer = means.writer
        self._spec = spec
        self._runner = runner
        self._steps = {step.id: step for step in spec.steps}
        self._needs = any(step.resources for step in spec.steps)
        self._requests = Requests(writer=means.writer, width=spec.width, most=means.most, retry=self._retry)
        self._hooks = RunHooks(means.hooks, means.writer, run.id)
        self._takes_over = takes_over or TakeOver()
        self._resumes: set[str] = set()
        """Tasks whose open attempt goes on where another supervisor left it."""
        self._to_wake: set[str] = set()
        """Tasks that have ended and have mail which another supervisor was to wake them for."""
        self._dormant: dict[str, float] = {}
        """Tasks that wait for an answer and have no session here, and until when they do."""
        self._worked_to = 0.0
        """Up to when the time that it was driven is written down."""
        self._lease: Lease | None = None
        self._tasks: dict[str, TaskRecord] = {}
        self._work: dict[str, Work] = {}
        self._last: dict[str, LastAttempt] = {}
        self._due: dict[str, float] = {}
        self._returns = Returns()
        self._views: dict[str, tuple[object, TaskView]] = {}
        """How the tasks looked last, and what that was made of: most have not changed since."""
        self._deadline: float | None = None
        self._wake = anyio.Event()
        self._contact: Contact | None = None
        self._wakes = Wakes(means.slots, self.wake)
        self._places = Places(slots=means.slots, tasks=self._tasks, work=self._work)
        for step in spec.steps:
            self._places.describe(spec, step)
        self._scope = anyio.CancelScope(shield=True)

    # --- for others ---

    async def drive(self) -> None:
        """Drive the run to its end. Shielded from the caller's scope: ends with the run, or by
        `kill`. What went wrong is in `error`."""
        unlisten = self._means.slots.listen(self.wake)
        try:
            with self._scope:
                await self._drive()
        except Exception as error:
            self.error = _alone(error)
            logger.warning("run %s could not be driven to its end", self.run.id, exc_info=True)
        finally:
            unlisten()
            self._means.slots.wait_for(self.run.id, {})
            self.ended.set()
            self.gone.set()

    def kill(self) -> None:
        """Stop at once, whatever is under way."""
        self._scope.cancel()

    def wake(self) -> None:
        """Look at the run again soon."""
        self._wake.set()

    async def request(self, control: ControlRecord) -> str | None:
        """Carry out a request that was written down, hooks permitting. Returns why it was refused. Before
        the run has begun only its stop can be carried out; the rest is found again when it has."""
        if self._contact is None and not stops_run(control):
            return None
        if self._hooks.hold(control, self._tasks, self._take):
            return None
        return await self._take(control)

    async def _take(self, control: ControlRecord) -> str | None:
        refused = await self._requests.take(control, self._lease, self._tasks, self._contact)
        self.wake()
        return refused

    async def _retry(self, control: ControlRecord) -> str:
        """Queue tasks again that have ended. Returns which."""
        lease, payload = self._lease, control.payload
        assert lease is not None
        keys = keys_in(control)

        def write(store: RunStore) -> tuple[RunRecord, list[TaskRecord]]:
            plan = store.load_run(lease.run_id).spec
            spec = changed_spec(plan, keys, model=payload.get("model"), text=str(payload.get("text") or ""))
            tasks = store.retry_tasks(lease, keys, actor=control.actor, spec=spec)
            return store.load_run(lease.run_id), tasks

        self.run, tasks = await self._writer.run(write)
        self._spec = RunSpec.model_validate_json(self.run.spec)
        self._steps.update({step.id: step for step in self._spec.steps})
        for task in tasks:
            self._places.describe(self._spec, self._steps[task.key])
            self._last.pop(task.key, None)
            self._due.pop(task.key, None)
            self._requests.task_stops.pop(task.key, None)
            self._note_task(task)
        return f"queued again: {', '.join(task.key for task in tasks)}"

    def note(self, settled: Settled) -> None:
        """An attempt's end was written down."""
        self._last[settled.task.key] = settled.last
        self._note_task(settled.task, settled.summary)

    def returns(self, task: TaskRecord, messages: list[MessageRecord]) -> None:
        """These were written to the senders of mail that this task did not read."""
        self._returns.add(task, messages)

    async def changed(self, work: Work) -> None:
        """Hooks changed a step before its session begins: its slot counts for its new model, where there
        may have to be room first."""
        await self._places.change(self._spec, work)

    def sequel(self, task: TaskRecord, last: LastAttempt) -> Sequel:
        """What follows by itself for a task with this last attempt."""
        stopped = self._requests.stop is not None or task.key in self._requests.task_stops
        view = view_of(task, last=last, most_attempts=self._steps[task.key].limits.attempts)
        return sequel(view, self._means.retry, stopped=stopped)

    # --- from claim to end ---

    async def _drive(self) -> None:
        lease = self._lease = await self._claim()
        if lease is not None:
            async with self._hooks.listening(lease):
                await self._owned(lease)
            if self.run.state in RUN_TERMINAL:
                await self._hooks.tell_last(
                    "after_run_end", RunEnded(run_id=self.run.id, state=self.run.state, cause=self.run.cause)
                )

    async def _owned(self, lease: Lease) -> None:
        try:
            if await self._begin(lease):
                await self._sessions(lease)
        except anyio.get_cancelled_exc_class():
            await self._give_up(lease, Cause(code=CauseCode.SHUTDOWN, message="it was stopped at once"))
            raise
        except Exception as error:
            if isinstance(_alone(error), StateUnwritable):
                await self._let_go(lease)
                raise
            if isinstance(_alone(error), Fenced):
                raise
            logger.warning("run %s broke", self.run.id, exc_info=True)
            await self._give_up(lease, Cause.of_defect("the run broke", _alone(error)))
            if self.run.state not in RUN_TERMINAL:
                raise

    async def _claim(self) -> Lease | None:
        """The lease; None if the run has ended meanwhile. Raises `LeaseHeld`."""
        run_id = self.run.id
        asks_first = self._hooks.decides("before_run_start")

        def claim(store: RunStore) -> tuple[Lease | None, RunRecord]:
            try:
                lease = self._takes_over.lease or store.claim(
                    run_id, self._means.owner, still=self._takes_over.still
                )
            except IllegalTransition:
                return None, store.load_run(run_id)
            taken = TakenOver()
            if store.load_run(run_id).state is RunState.QUEUED:
                store.append_events(lease, run_id, announce.planned(self._spec, actor=ACTOR))
            else:
                taken = take_stock(store, lease, self._takes_over)
            if store.load_run(run_id).state is not RunState.QUEUED or not asks_first:
                store.transition_run(lease, RunState.RUNNING, actor=ACTOR)
            self._resumes, self._last, self._dormant = taken.resumes, taken.last, taken.waits
            self._to_wake = taken.wakes
            self._tasks.update({task.key: task for task in store.load_tasks(run_id)})
            return lease, store.load_run(run_id)

        lease, self.run = await self._writer.run(claim)
        self._worked_to = anyio.current_time()
        self._due = dict.fromkeys(self._last, self._worked_to)
        self._dormant = {key: self._worked_to + left for key, left in self._dormant.items()}
        return lease

    async def _begin(self, lease: Lease) -> bool:
        """Ask the hooks, and start the clock. False if a hook refused the run."""
        wall = self.run.wall_seconds
        event = announce.run_starting(self.run, self._spec)
        if self.run.state is not RunState.QUEUED:
            self._hooks.tell("before_run_start", event)
        else:
            answer = await self._asked_to_begin(event)
            self._requests.width = answer.changes.get("width", self._requests.width)
            wall = answer.changes.get("wall_seconds", wall)

            def go(store: RunStore) -> RunRecord:
                store.append_events(lease, lease.run_id, answer.events)
                if answer.refusal is not None:
                    return close_run(store, lease, answer.refusal, actor=ACTOR)
                return store.transition_run(lease, RunState.RUNNING, actor=ACTOR)

            self.run = await self._writer.run(go)
        if wall is not None:
            self._deadline = anyio.current_time() + wall - self.run.worked
        return self.run.state not in RUN_TERMINAL

    async def _asked_to_begin(self, event: RunStarting) -> Answer:
        """What the hooks say; nothing if the run is stopped before they have answered."""
        answers: list[Answer] = []
        async with anyio.create_task_group() as group:

            async def stopped() -> None:
                while self._requests.stop is None:
                    self._wake = anyio.Event()
                    await self._wake.wait()
                group.cancel_scope.cancel()

            if self._hooks.decides("before_run_start"):
                group.start_soon(self._watch)
                group.start_soon(stopped)
            answers.append(await self._hooks.ask("before_run_start", event))
            group.cancel_scope.cancel()
        return answers[0] if answers else Answer()

    async def _sessions(self, lease: Lease) -> None:
        """The life of the run. Left when every session is gone."""
        context = RunContext(
            lease=lease,
            run=self.run,
            spec=self._spec,
            writer=self._writer,
            runner=self._runner,
            hooks=self._hooks,
            pace=anyio.Lock(),
            wake=self._wakes.call,
        )
        self._contact = Contact(context=context, tasks=self._tasks, steps=self._steps, work=self._work)
        async with anyio.create_task_group() as group:
            self._wakes.open(group, self._contact)
            for key in self._to_wake:
                self._wakes.call(key)
            group.start_soon(self._renew, lease)
            group.start_soon(self._watch)
            await self._loop(group, context)
            # Who is still there has its end written down and only has to leave.
            group.cancel_scope.cancel()

    async def _loop(self, group: anyio.abc.TaskGroup, context: RunContext) -> None:
        while True:
            self._wake = anyio.Event()
            await self._requests.answer_settled(context.lease, self._tasks)
            now = anyio.current_time()
            snapshot = self._snapshot()
            actions = decide(snapshot, now)
            if self._needs:
                await self._note_waits(context.lease, resource_waits(snapshot, now))
            if await self._carry_out(actions, group, context):
                return
            if all(isinstance(action, Start | Finish) for action in actions):
                due = next_due(snapshot, now)
                with anyio.move_on_after(None if due is None else due - now):
                    await self._wake.wait()

    async def _give_up(self, lease: Lease, cause: Cause) -> None:
        """Write down the end of a run that cannot go on."""
        if self.run.state in RUN_TERMINAL:
            return
        with anyio.move_on_after(LAST_WORDS_SECONDS, shield=True):
            try:
                self.run = await self._writer.run(lambda store: close_run(store, lease, cause, actor=ACTOR))
            except Exception:
                logger.exception("the end of run %s could not be written", self.run.id)

    async def _let_go(self, lease: Lease) -> None:
        """Give up a run that could not be written: nothing is wrong with it, and it can be gone on with.
        Where there is no room for that either, its lease expires."""
        with anyio.move_on_after(LAST_WORDS_SECONDS, shield=True):
            while True:
                try:
                    return await self._writer.run(lambda store: store.release(lease))
                except StateUnwritable:
                    await anyio.sleep(POLL_SECONDS)
                except CrewError:
                    return None

    async def _renew(self, lease: Lease) -> None:
        while True:
            await anyio.sleep(self._means.renew_seconds)
            now = anyio.current_time()
            worked, self._worked_to = now - self._worked_to, now
            await self._writer.run(partial(_renew, lease=lease, worked=worked))

    async def _watch(self) -> None:
        run_id = self.run.id
        while True:
            # First the pause: at the start of a run the sessions have the store to themselves.
            await anyio.sleep(POLL_SECONDS)
            for control in await self._writer.read(lambda store: store.pending_controls(run_id)):
                await self.request(control)
            if self._dormant:
                await self._wake_dormant()

    async def _wake_dormant(self) -> None:
        """Go on with those whose question is answered, or out of time."""
        lease, tasks = self._lease, [self._tasks[key] for key in self._dormant]
        assert lease is not None
        now, until = anyio.current_time(), dict(self._dormant)

        def look(store: RunStore) -> list[TaskRecord]:
            return [task for task in tasks if until[task.key] <= now or is_answered(store, task)]

        for task in await self._writer.read(look):
            if self._dormant.pop(task.key, None) is not None:
                record = await self._writer.run(partial(_answered, lease=lease, task=task))
                self._resumes.add(task.key)
                self._note_task(record)

    # --- what the scheduler sees ---

    def _snapshot(self) -> Snapshot:
        stop = self._requests.stop
        return Snapshot(
            state=self.run.state,
            tasks=tuple(self._view(task) for task in self._tasks.values()),
            width=self._requests.width,
            free_slots=self._means.slots.free,
            tag_limits=self._spec.tag_limits,
            used=self._places.used_elsewhere(),
            ahead=self._means.slots.ahead_of(self.run.id) if self._needs else {},
            stop=None if stop is None else stop.cause,
            fail_fast=self._spec.fail_fast,
            deadline=self._deadline,
            retry=self._means.retry,
        )

    def _view(self, task: TaskRecord) -> TaskView:
        key = task.key
        work = self._work.get(key)
        stop = self._requests.task_stops.get(key)
        # A task that is tried again waits for the conversation that it was woken for.
        busy = (work is not None or self._wakes.talks(key)) and task.state not in TASK_TERMINAL
        stopping = work is not None and work.stop is not None
        last, due = self._last.get(key), self._due.get(key)
        ticket = self._means.slots.ticket(self.run.id, key) if self._needs else None
        resumes = key in self._resumes and not busy
        tags = self._places.tags(key)
        made_of = (task, busy, stopping, last, due, stop, ticket, resumes, tags)
        known = self._views.get(key)
        if known is not None and known[0] == made_of:
            return known[1]
        view = view_of(
            task,
            busy=busy,
            stopping=stopping,
            last=last,
            retry_at=due,
            stop=None if stop is None else stop.cause,
            tags=tags,
            ticket=ticket,
            resumes=resumes,
            most_attempts=self._steps[key].limits.attempts,
        )
        self._views[key] = (made_of, view)
        return view

    async def _note_waits(self, lease: Lease, waits: Mapping[str, frozenset[str]]) -> None:
        """Give those that wait for a resource their places, and say what each waits for."""
        new = self._means.slots.wait_for(self.run.id, waits)
        if not new:
            return
        events = announce.held_back(waits, [self._tasks[key] for key in new], actor=ACTOR)
        await self._writer.run(lambda store: store.append_events(lease, lease.run_id, events))

    # --- carrying out what was decided ---

    async def _carry_out(
        self, actions: Sequence[Action], group: anyio.abc.TaskGroup, context: RunContext
    ) -> bool:
        """Whether the run has ended."""
        writes: list[Write] = []
        for action in actions:
            match action:
                case Start(key):
                    # What changed since this was decided wakes us: slots that others took, a stop.
                    if self._places.fits(key) and self._requests.stop is None:
                        await self._start(key, group, context)
                case Finish(state, cause):
                    return await self._finish(context.lease, state, cause, group)
                case Block(cause):
                    await self._block(context.lease, cause)
                    return True
                case Cancel(key, cause) if key in self._work:
                    work = self._work[key]
                    work.stop = Stop(cause=cause, actor=self._requests.actor_for(key))
                    group.start_soon(work.abort)
                case Cancel() | Skip() | Retry():
                    writes.append(self._write_for(action, context.lease))
        if writes:
            for record in await self._writer.run(lambda store: [write(store) for write in writes]):
                self._note_task(record)
        assert self._contact is not None
        self._returns.hand_over(group, self._contact.hand_over)
        return False

    def _write_for(self, action: Cancel | Skip | Retry, lease: Lease) -> Write:
        task = self._tasks[action.key]
        if isinstance(action, Retry):
            self._due[task.key] = action.at
            at = time.time() + action.at - anyio.current_time()
            return lambda store: store.schedule_retry(lease, task.id, at, actor=ACTOR)
        to = action.to if isinstance(action, Cancel) else TaskState.SKIPPED
        actor = self._requests.actor_for(task.key)
        if task.state is TaskState.WAITING or (
            task.state is TaskState.RUNNING and (task.hold is not None or task.key in self._resumes)
        ):
            # Its attempt is open, and nobody works on it.
            self._resumes.discard(task.key)
            self._dormant.pop(task.key, None)
            stop = Stop(cause=action.cause, actor=actor)
            return self._ending(task, to, partial(_end_idle, lease=lease, task=task, stop=stop))
        gave_up = action.gave_up if isinstance(action, Cancel) else None
        return self._ending(
            task,
            to,
            lambda store: store.transition_task(
                lease, task.id, to, actor=actor, cause=action.cause, gave_up=gave_up
            ),
        )

    def _ending(self, task: TaskRecord, to: TaskState, end: Write) -> Write:
        """The end of a task without a session. While the run goes on, who wrote to it is told."""
        if self._requests.stop is not None:
            return end
        return self._returns.before(end, task, f"{task.key} is not tried any more ({to})")

    async def _start(self, key: str, group: anyio.abc.TaskGroup, context: RunContext) -> None:
        """Give the task a slot. Yields, so that the first session begins before the last is thought of."""
        work = Work(
            context=context,
            books=self,
            task=self._tasks[key],
            step=self._steps[key],
            goes_on=key in self._resumes,
        )
        self._resumes.discard(key)
        self._work[key] = work
        self._due.pop(key, None)
        self._places.take(work)
        group.start_soon(self._work_on, work)
        await anyio.lowlevel.checkpoint()

    async def _work_on(self, work: Work) -> None:
        try:
            await work.run()
        finally:
            del self._work[work.task.key]
            self._places.give_back(work)
            self._places.describe(self._spec, self._steps[work.task.key])
            self.wake()

    def _note_task(self, task: TaskRecord, summary: str = "") -> None:
        self._tasks[task.key] = task
        self.wake()
        if task.state in TASK_TERMINAL:
            self._hooks.tell("after_task_end", announce.task_ended(task, summary))

    async def _block(self, lease: Lease, cause: Cause) -> None:
        """Let go of a run in which nothing can be done before somebody decides: whoever does takes
        it up again, and no process has to wait for it."""

        def block(store: RunStore) -> RunRecord:
            store.transition_run(lease, RunState.BLOCKED, actor=ACTOR, cause=cause)
            for control in store.pending_controls(lease.run_id):
                store.answer_control(
                    lease, control.id, refused=f"the run waits: {cause.message}", actor=ACTOR
                )
            store.release(lease)
            return store.load_run(lease.run_id)

        self._wakes.close()
        self.run = await self._writer.run(block)
        self.ended.set()

    async def _must_wait(self) -> bool:
        """Whether the run's end has to wait for a session that reads what a person told it. Not if
        the run is stopped, and not beyond its time."""
        late = self._deadline is not None and anyio.current_time() >= self._deadline
        return self._requests.stop is None and not late and await self._wakes.owed()

    async def _finish(
        self, lease: Lease, state: RunState, cause: Cause | None, group: anyio.abc.TaskGroup
    ) -> bool:
        """Whether the run has ended; it has not while it must wait."""
        if await self._must_wait():
            return False
        stop = self._requests.stop
        actor = stop.actor if stop is not None and state is RunState.CANCELLED else ACTOR
        self._wakes.close()
        answers, under_way = self._requests.last_answers(state), self._requests.taken

        def finish(store: RunStore) -> RunRecord | None:
            if any(task.state not in TASK_TERMINAL for task in store.load_tasks(lease.run_id)):
                return None  # somebody had a task tried again meanwhile
            return finish_run(store, lease, state, cause, actor=actor, answers=answers, under_way=under_way)

        ended = await self._writer.run(finish)
        if ended is None:
            assert self._contact is not None
            self._wakes.open(group, self._contact)
            self.wake()
            return False
        self.run = ended
        self.ended.set()
        return True

    def conversation_changed(self, host: str, turns_to: str) -> None:
        """The host begins a turn of this conversation: tell whoever watches runs of another one."""
        parent = self.run.parent
        if parent is not None and parent.host == host and parent.session != turns_to:
            event = ConversationChanging(
                run_id=self.run.id, host=host, asked_from=parent.session, turns_to=turns_to
            )
            self._hooks.tell("session_before_switch", event)


def _renew(store: RunStore, *, lease: Lease, worked: float) -> int:
    return store.renew(lease, worked=worked)


def _answered(store: RunStore, *, lease: Lease, task: TaskRecord) -> TaskRecord:
    return go_on(store, lease, task)


def _end_idle(store: RunStore, *, lease: Lease, task: TaskRecord, stop: Stop) -> TaskRecord:
    """End a task whose attempt is open without anybody working on it."""
    outcome = Outcome(state=AttemptState.CANCELLED, cause=stop.cause)
    for attempt in store.list_attempts(task.id)[-1:]:
        settle_attempt(store, lease, attempt.id, outcome, stop=stop)
    return store.load_task(lease.run_id, task.id)


def _alone(error: Exception) -> Exception:
    """The error itself, or the one that a group of errors is about."""
    while isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)
        telling, _ = group.split((Fenced, StateUnwritable))
        error = group.exceptions[0] if telling is None else telling.exceptions[0]
    return error
