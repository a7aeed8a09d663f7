"""The process's own runs: writing them down, driving them, waiting for them, stopping them."""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import anyio
import anyio.abc
import anyio.to_thread
import pluggy

from crew_plugin.engine.cancel import (
    CancelOutcome,
    CancelReport,
    Wish,
    cancel_or_ask,
    report_answer,
    report_silence,
)
from crew_plugin.engine.driver import Driver, Means
from crew_plugin.engine.hooks import SECONDS as HOOK_SECONDS
from crew_plugin.engine.hooks import Deed, HookName, Hooks
from crew_plugin.engine.leases import Abandoned, LeaseWatch
from crew_plugin.engine.orphans import depth_here, end_orphans
from crew_plugin.engine.ports import TaskRunner
from crew_plugin.engine.retry import Again, Retried, reopen_or_ask, retried_in_place
from crew_plugin.engine.runtime import Resolved, RuntimeFacts, resolve_runtime
from crew_plugin.engine.slots import Slots
from crew_plugin.engine.snapshot import RetryPolicy
from crew_plugin.engine.steer import Order, SteerReport, ask, receipt_of, silence
from crew_plugin.engine.submit import new_run_of, new_tasks_of
from crew_plugin.engine.takeover import TakeOver
from crew_plugin.errors import CallerError, CrewError, Forgotten, HostUnsupported, NotAllowed, UnknownName
from crew_plugin.hookspecs import Recovering, Retrying
from crew_plugin.host import EngineCapability, HostInfo
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import ControlRecord, ParentRef, RunRecord
from crew_plugin.models.spec import RunSpec, RuntimeMode
from crew_plugin.models.states import RUN_TERMINAL, RunState, SessionKind
from crew_plugin.store.liveness import current_owner, owner_alive
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["RecoveryPolicy", "Supervisor"]

STOP_SECONDS = 8.0
"""How long a stopped run may take to be over and gone before it is stopped at once."""
ANSWER_SECONDS = 5.0
"""How long an answer to a request is waited for."""
LOOK_SECONDS = 0.05
"""How often the answer of another process is looked for."""
RENEWALS = 6
"""How often a lease is renewed in the time after which it expires."""
LOOK_OVER_SECONDS = 5.0
"""How often the runs of the project are looked over for lost supervisors."""
LOOKED_OVER = 200
"""Active runs that are looked over, the newest first."""
MOST_EPOCHS = 6
"""A run that was begun so often and lost its supervisor each time is not taken up by itself."""
UNCLAIMED_SECONDS = 10.0
"""How long a run that nobody drives is waited for: another process may be about to claim it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """What is done about runs whose supervisor is gone."""

    takes_over: bool = False
    """Whether this process goes on with them by itself."""
    lease_seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class _Submitted:
    run: RunRecord
    spec: RunSpec
    takes_over: TakeOver | None = None
    adopted: bool = False
    """It is not this process's to close if nothing comes of it."""


class Supervisor:
    """All runs that this process drives, under one limit of open sessions."""

    def __init__(
        self,
        *,
        writer: StoreWriter,
        runners: Mapping[SessionKind, TaskRunner],
        hooks: pluggy.PluginManager,
        hook_seconds: float = HOOK_SECONDS,
        process_width: int = 32,
        run_width: int = 1024,
        max_dispatches: int = 3,
        retry: RetryPolicy | None = None,
        recovery: RecoveryPolicy | None = None,
        most_depth: int = 2,
        capabilities: frozenset[EngineCapability] = frozenset(EngineCapability),
        host: HostInfo | None = None,
    ) -> None:
        self._writer = writer
        self._runners = runners
        self._max_dispatches = max_dispatches
        self._facts = RuntimeFacts(
            engines={kind: runner.engine for kind, runner in runners.items()},
            capabilities=capabilities,
            host=host,
        )
        self._owner = current_owner()
        self._recovery = recovery or RecoveryPolicy()
        self._most_depth = most_depth
        self._means = Means(
            writer=writer,
            hooks=Hooks(hooks, hook_seconds),
            slots=Slots(process_width),
            owner=self._owner,
            retry=retry or RetryPolicy(),
            renew_seconds=self._recovery.lease_seconds / RENEWALS,
            most=run_width,
        )
        self._drivers: dict[str, Driver] = {}
        self._submitted: dict[str, _Submitted] = {}
        self._group: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Owns the background runs. Leaving it stops them with the cause `shutdown`."""
        failure: Exception | None = None
        async with anyio.create_task_group() as self._group:
            looking = anyio.CancelScope()
            self._group.start_soon(self._look_over, looking)
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised again below, by itself instead of in a group
                failure = error
            finally:
                self._group = None
                looking.cancel()
                cause = Cause(code=CauseCode.SHUTDOWN, message="the process that owned it was asked to end")
                await self._stop_all(cause)
        if failure is not None:
            raise failure

    async def submit(
        self, spec: RunSpec, *, parent: ParentRef | None, background: bool, actor: str
    ) -> RunRecord:
        """Write a run down, to be driven by `execute` or `start`.

        Raises:
            HostUnsupported: this process cannot execute it as it is planned; nothing was written.
            NotAllowed: it is too deep inside other runs.
        """
        if depth_here() > self._most_depth:
            raise NotAllowed(
                f"crews may start crews {self._most_depth} deep (limits.depth), and this is a session inside "
                f"{depth_here()} runs: do the work here, or hand in what is needed from others"
            )
        spec = self._resolved(spec)

        def write(store: RunStore) -> RunRecord:
            new = new_run_of(spec, parent=parent, background=background)
            tasks = new_tasks_of(spec, max_dispatches=self._max_dispatches)
            run = store.create_run(new, tasks, actor=actor)
            # Noted here: it is written down even if the caller is cancelled while it waits.
            self._submitted[run.id] = _Submitted(run, spec)
            return run

        return await self._writer.run(write)

    async def adopt(self, run_id: str, how: TakeOver | None = None) -> RunRecord:
        """Make a run that another process wrote down, or drove until it died, one that `execute` or
        `start` can drive here. Claims nothing yet. Raises `UnknownName` and `CallerError`."""
        run = await self._writer.read(lambda store: store.load_run(run_id))
        if run.state in RUN_TERMINAL:
            raise CallerError(f"run {run.id} has ended ({run.state}); there is nothing to go on with")
        spec = RunSpec.model_validate_json(run.spec)
        if run.state is RunState.QUEUED:
            spec = self._resolved(spec)
        else:
            if how is None or how.lease is None:
                await self.allow("run_recovery", Recovering(run_id=run.id, epoch=run.epoch))
            # Before its sessions go on: what the dead ones left running would work beside them.
            await anyio.to_thread.run_sync(end_orphans)
        if spec.runtime not in self._runners:
            raise HostUnsupported(f"run {run.id} needs {spec.runtime} sessions, and this process has none")
        how = how or TakeOver()
        if how.lease is None and run.owner == self._owner and run.id not in self._drivers:
            # This process could not write when it stopped driving it, and so could not give it up.
            how = replace(how, still=run.renewals)
        self._submitted[run.id] = _Submitted(run, spec, how, adopted=True)
        return run

    async def allow(self, name: HookName, event: Deed) -> None:
        """Ask whoever implements this hook. Raises `NotAllowed` with the first refusal. The calls are
        written down with the run that it is about."""
        refusal, events = await self._means.hooks.allow(name, event)
        run_id = event.run_id
        if events and run_id is not None:
            with suppress(Forgotten):
                await self._writer.run(lambda store: store.append_events(None, run_id, events))
        if refusal is not None:
            raise NotAllowed(f"a hook refused it: {refusal}")

    def hand_off(self, run_id: str) -> None:
        """A submitted run is driven by another process."""
        self._submitted.pop(run_id, None)

    async def execute(self, run_id: str) -> RunRecord:
        """Drive a submitted run in the caller's scope; returns how it ended.

        If the caller is cancelled, the run is cancelled with it, quiet within a second, and the
        cancellation goes on when everything of the run is gone.
        """
        driver = self._driver(run_id)
        async with anyio.create_task_group() as group:
            group.start_soon(self._drive, driver)
            try:
                await driver.gone.wait()
            except anyio.get_cancelled_exc_class():
                message = "the turn that owned the run was interrupted"
                await self._stop(driver, Cause(code=CauseCode.LEADER_INTERRUPTED, message=message))
                raise
        if driver.error is not None:
            raise driver.error
        return driver.run

    def start(self, run_id: str) -> None:
        """Drive a submitted run in the background. Only while `running`."""
        if self._group is None:
            raise RuntimeError("background runs need `async with supervisor.running()`")
        self._group.start_soon(self._drive, self._driver(run_id))

    async def wait(self, run_id: str, timeout: float | None) -> RunRecord:
        """The run when it has ended, or as it stands after `timeout` seconds. A run whose
        supervisor died, or that nobody claims, is not waited for any longer."""
        look = await self._writer.read(lambda store: _look(store, run_id))
        begun = anyio.current_time()
        with anyio.move_on_after(timeout):
            while look.run.state not in RUN_TERMINAL:
                driver = self._drivers.get(look.run.id)
                if driver is not None:
                    await driver.ended.wait()
                elif look.dead or (
                    look.run.owner is None and anyio.current_time() - begun > UNCLAIMED_SECONDS
                ):
                    break
                else:
                    await anyio.sleep(4 * LOOK_SECONDS)
                look = await self._writer.read(lambda store: _look(store, run_id))
                if driver is not None and driver.error is not None:
                    break
        return (await self._writer.read(lambda store: _look(store, run_id))).run

    async def cancel(
        self,
        run_id: str,
        *,
        cause: Cause,
        actor: str,
        force: bool = False,
        task: str | None = None,
        caller: ParentRef | None = None,
    ) -> CancelReport:
        """Stop a run, or one task of it, whoever drives it. Raises `UnknownName`.

        `caller` is the host session that asks; a run of another session, or one that another
        process drives, needs `force`.
        """
        wish = Wish(run_id=run_id, cause=cause, actor=actor, force=force, task=task, caller=caller)
        asked = await self._writer.run(lambda store: cancel_or_ask(store, wish, self._owner))
        if isinstance(asked, CancelReport):
            return asked
        driver = self._drivers.get(asked.run_id)
        if driver is not None:
            await driver.request(asked)
        report = await self._answered(lambda store: report_answer(store, wish, asked))
        if report is None:
            report = await self._writer.read(lambda store: report_silence(store, wish))
        return report

    async def cancel_tree(
        self,
        run_id: str,
        *,
        cause: Cause,
        actor: str,
        force: bool = False,
        caller: ParentRef | None = None,
    ) -> list[CancelReport]:
        """Stop a run with every run that its sessions started. The report of the run itself comes
        first; if that is refused, it is the only one."""
        first = await self.cancel(run_id, cause=cause, actor=actor, force=force, caller=caller)
        reports = [first]
        pending = [] if first.outcome is CancelOutcome.REFUSED else await self._started_by(first.run_id)
        while pending:
            # Whoever may stop a run may stop what it started.
            reports.append(await self.cancel(pending.pop(0), cause=cause, actor=actor, force=True))
            pending += await self._started_by(reports[-1].run_id)
        return reports

    async def _started_by(self, run_id: str) -> list[str]:
        return await self._writer.read(lambda store: [run.id for run in store.list_started(run_id)])

    async def order(self, order: Order) -> SteerReport:
        """Tell an agent something, stop its turn, or resize a run, whoever drives it. Raises
        `UnknownName` and `InvalidValue`."""
        asked = await self._writer.run(lambda store: ask(store, order, self._owner))
        if isinstance(asked, SteerReport):
            return asked
        driver = self._drivers.get(asked.run_id)
        if driver is not None:
            await driver.request(asked)
        report = await self._answered(lambda store: receipt_of(store, order, asked))
        if report is None:
            report = await self._writer.read(lambda store: silence(store, order, asked))
        return report

    async def retry(self, again: Again) -> Retried:
        """Have tasks tried again. A run that had ended is open again then, and one that `execute` or
        `start` can drive here; the supervisor of one that goes on has queued them.

        Raises:
            CallerError: it cannot be done; says why.
        """
        run = await self._writer.read(lambda store: store.load_run(again.run))
        if run.state in RUN_TERMINAL:
            # Of one that goes on its supervisor asks.
            event = Retrying(run_id=run.id, keys=again.tasks, actor=again.actor)
            await self.allow("before_retry", event)
        asked = await self._writer.run(lambda store: reopen_or_ask(store, again, self._owner))
        if isinstance(asked, Retried):
            await self.adopt(asked.run_id)
            return asked
        driver = self._drivers.get(asked.run_id)
        if driver is not None:
            await driver.request(asked)
        found = await self._answered(lambda store: retried_in_place(store, asked))
        if found is None:
            raise NotAllowed("its supervisor was asked to retry and has not answered yet")
        return found

    async def _answered[T](self, look: Callable[[RunStore], T | None]) -> T | None:
        """What `look` finds within the time that an answer may take."""
        with anyio.move_on_after(ANSWER_SECONDS):
            while True:
                found = await self._writer.read(look)
                if found is not None:
                    return found
                await anyio.sleep(LOOK_SECONDS)
        return None

    def conversation_changed(self, host: str, turns_to: str) -> None:
        """The host begins a turn of this conversation. Hooks of runs that another one asked for
        are told."""
        for driver in self._drivers.values():
            driver.conversation_changed(host, turns_to)

    # --- runs of others ---

    async def _look_over(self, scope: anyio.CancelScope) -> None:
        """Notice the supervisors of the project that are gone, and go on with their runs where the
        settings say so."""
        watch = LeaseWatch(self._recovery.lease_seconds)
        with scope:
            await anyio.to_thread.run_sync(end_orphans)
            while True:
                await anyio.sleep(min(LOOK_OVER_SECONDS, self._recovery.lease_seconds / 2))
                try:
                    for gone in watch.look(await self._others(), anyio.current_time()):
                        await self._found(gone)
                except CrewError:
                    logger.warning("the project's runs could not be looked over", exc_info=True)

    async def _others(self) -> list[RunRecord]:
        active = (RunState.RUNNING, RunState.QUEUED)
        runs = await self._writer.read(lambda store: store.list_runs(states=active, limit=LOOKED_OVER))
        return [run for run in runs if run.owner is not None and run.id not in self._drivers]

    async def _found(self, gone: Abandoned) -> None:
        run = gone.run
        known = not await self._writer.run(
            lambda store: store.note_lost(run.id, run.epoch, how=gone.how, actor="supervisor")
        )
        if not known:
            await anyio.to_thread.run_sync(end_orphans)
        if not self._recovery.takes_over or self._group is None or run.id in self._submitted:
            return
        if run.epoch >= MOST_EPOCHS:
            if not known:
                logger.warning("run %s lost its supervisor %d times and is left", run.id, run.epoch)
            return
        try:
            await self.adopt(run.id, TakeOver(still=gone.still))
        except (CallerError, HostUnsupported):
            logger.info("run %s is not taken over", run.id, exc_info=True)
            return
        self.start(run.id)

    # --- drivers ---

    def _driver(self, run_id: str) -> Driver:
        submitted = self._submitted.pop(run_id, None)
        if submitted is None:
            raise UnknownName("submitted run", run_id, self._submitted)
        driver = Driver(
            self._means,
            submitted.run,
            submitted.spec,
            self._runners[submitted.spec.runtime],
            takes_over=submitted.takes_over,
        )
        self._drivers[run_id] = driver
        return driver

    async def _drive(self, driver: Driver) -> None:
        try:
            await driver.drive()
        finally:
            del self._drivers[driver.run.id]

    async def _stop(self, driver: Driver, cause: Cause) -> None:
        """End a run of ours in an orderly way and, if that takes too long, at once. Shielded."""
        try:
            with anyio.move_on_after(STOP_SECONDS, shield=True):
                await self._tell_to_stop(driver, cause)
                await driver.gone.wait()
        finally:
            # Too late, or the caller was cancelled a second time.
            if not driver.gone.is_set():
                driver.kill()

    async def _tell_to_stop(self, driver: Driver, cause: Cause) -> None:
        wish = Wish(run_id=driver.run.id, cause=cause, actor="supervisor", force=True)
        try:
            asked = await self._writer.run(lambda store: cancel_or_ask(store, wish, self._owner))
        except CrewError:
            # The wish cannot be written down: it is stopped all the same.
            logger.exception("run %s is stopped without a record of why", driver.run.id)
            driver.kill()
            return
        if isinstance(asked, ControlRecord):
            await driver.request(asked)

    async def _drop(self, run_id: str, cause: Cause) -> None:
        """Close a run that was written down and that nobody came to drive."""
        wish = Wish(run_id=run_id, cause=cause, actor="supervisor", force=True)
        try:
            await self._writer.run(lambda store: cancel_or_ask(store, wish, self._owner))
        except CrewError:
            logger.warning("run %s was never begun and could not be closed", run_id, exc_info=True)

    async def _stop_all(self, cause: Cause) -> None:
        with anyio.move_on_after(STOP_SECONDS, shield=True):
            while self._submitted:
                run_id, submitted = self._submitted.popitem()
                if not submitted.adopted:
                    await self._drop(run_id, cause)
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for driver in list(self._drivers.values()):
                    group.start_soon(self._stop, driver, cause)

    def resolve(self, requested: RuntimeMode) -> Resolved:
        """How a run would be executed here. Raises `HostUnsupported`."""
        return resolve_runtime(requested, self._facts)

    def _resolved(self, spec: RunSpec) -> RunSpec:
        """The plan with the kind of session that it is executed with here, and why."""
        found = self.resolve(spec.runtime_requested)
        return spec.model_copy(
            update={
                "runtime": found.kind,
                "runtime_reason": found.reason,
                "runtime_fallback": found.fallback,
                "runtime_looked_at": found.looked_at,
            }
        )


@dataclass(frozen=True, slots=True)
class _Look:
    """A run as it stands, and whether the process that drove it is dead."""

    run: RunRecord
    dead: bool


def _look(store: RunStore, run_id: str) -> _Look:
    run = store.load_run(run_id)
    return _Look(run, dead=run.owner is not None and not owner_alive(run.owner))
