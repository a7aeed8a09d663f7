"""Going on: with a run whose supervisor is gone, or with an agent that has ended, which is a new run
whose one step continues an earlier session."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crew_plugin.engine.takeover import Decision
from crew_plugin.errors import CallerError, InvalidValue, NotAllowed, UnknownName
from crew_plugin.models.records import AttemptRecord, RunRecord, TaskRecord
from crew_plugin.models.states import RUN_TERMINAL, SessionKind
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore

if TYPE_CHECKING:
    from crew_plugin.models.spec import RunSpec

__all__ = ["Earlier", "decisions_of", "find_earlier", "find_interrupted", "plan_resume"]

SOLO = "solo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The session to go on with."""

    run: RunRecord
    task: TaskRecord
    attempt: AttemptRecord


def find_interrupted(store: RunStore, run: str) -> RunRecord:
    """A run that can be gone on with: it has not ended. Raises `CallerError` for one that has."""
    record = store.load_run(run)
    if record.state in RUN_TERMINAL:
        raise CallerError(
            f"run {record.id} has ended ({record.state}), so there is nothing to go on with; to go on with "
            f'one of its agents say what it is to do now: crew resume {record.id} "..."'
        )
    return record


def decisions_of(text: str) -> dict[str, Decision]:
    """What `TASK=WHAT,TASK=WHAT` decides. Raises `InvalidValue`."""
    found: dict[str, Decision] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, word = part.rpartition("=")
        if not key or word.strip().lower() not in set(Decision):
            words = ", ".join(Decision)
            raise InvalidValue("decide", part, f"TASK=WHAT, where WHAT is one of {words}")
        found[key.strip()] = Decision(word.strip().lower())
    return found


def find_earlier(store: RunStore, run: str, task: str | None) -> Earlier:
    """The newest session with a transcript of a task; the task may be left out where the run has
    only one that can be continued. `run` may be `RUN/TASK`.

    Raises:
        CallerError: the run still goes on, nothing was said in it, or several tasks could be meant.
    """
    if task is None and "/" in run:
        run, _, task = run.partition("/")
    record = store.load_run(run)
    if record.imported is not None:
        raise NotAllowed(
            f"run {record.id} was imported: it can be read, and none of its agents is gone on with; start a "
            "run of your own"
        )
    if record.state not in RUN_TERMINAL and (record.owner is None or owner_alive(record.owner)):
        raise CallerError(
            f"run {record.id} still goes on ({record.state}); steer it instead: crew_agent_steer, or "
            f'crew steer {record.id} "..."'
        )
    if task is not None:
        found = _continuable(store, record, store.load_task(record.id, task))
        if found is None:
            raise CallerError(
                f"task {task!r} of run {record.id} cannot be continued: there is no transcript of it"
            )
        return found
    every = [_continuable(store, record, each) for each in store.load_tasks(record.id)]
    those = [each for each in every if each is not None]
    if not those:
        raise CallerError(f"run {record.id} cannot be continued: there is no transcript of any of its tasks")
    if len(those) > 1:
        raise UnknownName(
            f"task of run {record.id} (several could be continued; name one)",
            "",
            [each.task.key for each in those],
        )
    return those[0]


def plan_resume(store: RunStore, *, run: str, task: str | None, text: str) -> "RunSpec":
    """The run that goes on with that session: its agent as it was defined then, `text` as the new
    task, and a new result. Raises as `find_earlier`."""
    from crew_plugin.models.spec import RunSpec, StepSpec

    if not text.strip():
        raise InvalidValue("prompt", text, "some text that says what is to be done now")
    earlier = find_earlier(store, run, task)
    old = RunSpec.model_validate_json(earlier.run.spec)
    step = StepSpec.model_validate_json(earlier.task.spec)
    line = " ".join(text.split())
    step = step.model_copy(
        update={
            "task": text,
            "trusted": True,
            "title": line if len(line) <= 60 else line[:59] + "…",
            "depends_on": (),
            "reads": (),
            "output": None,
            "optional": False,
            "attention": "skip",
            "continues": earlier.attempt.session_id,
        }
    )
    return old.model_copy(
        update={
            "goal": text,
            "team": SOLO,
            "workflow": step.id,
            "steps": (step,),
            "agents": {step.agent: old.agents[step.agent]},
            "width": 1,
            "tag_limits": {},
        }
    )


def _continuable(store: RunStore, run: RunRecord, task: TaskRecord) -> Earlier | None:
    for attempt in reversed(store.list_attempts(task.id)):
        if attempt.kind is SessionKind.SCAFFOLD:
            continue
        if any(entry.role == "user" for entry in store.read_transcript(attempt.session_id)):
            return Earlier(run=run, task=task, attempt=attempt)
    return None
