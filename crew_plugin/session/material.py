"""Collecting what a prompt is made of: results of earlier tasks, instructions of the project.

Everything here reads the store or the disk and is called off the event loop.
"""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import CrewError, UnknownName
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.records import ArtifactRef, PeerRecord, ResultRecord, TaskRecord
from crew_plugin.models.states import TASK_TERMINAL, TaskState
from crew_plugin.session.fence import reference
from crew_plugin.session.prompt import Handed, Peer
from crew_plugin.store.port import RunStore

__all__ = ["artifact_of", "handed_on", "peers_of", "project_instructions"]

_INSTRUCTIONS: Final = "AGENTS.md"
_INSTRUCTIONS_MAX_BYTES: Final = 256_000
_SHORTEST_REF: Final = 8
_UNSUBMITTED: Final = (
    "This task ended WITHOUT handing in a result{cause}. Below is the last thing it said: unfinished, "
    "unchecked. Rely on nothing in it that you did not verify yourself."
)
_PLACEHOLDER: Final = "[dry run: here stands the result of `{key}` once there is one]"
_OVERRIDDEN: Final = "Its data does not fit the schema that was asked for; take it with care."


def artifact_of(store: RunStore, run_id: str, ref: str) -> bytes:
    """A body of this run, by the beginning of its hash. Those of other runs are unknown."""
    ref = ref.strip().lower()
    known = dict.fromkeys(artifact.sha256 for artifact in store.list_artifacts(run_id))
    fits = [sha256 for sha256 in known if sha256.startswith(ref)]
    if len(ref) < _SHORTEST_REF or len(fits) != 1:
        raise UnknownName("artifact of this run", ref, list(known))
    return store.read_artifact(fits[0])


def handed_on(store: RunStore, context: AttemptContext) -> tuple[Handed, ...]:
    """What the steps that this one depends on, or reads the shared output of, have left."""
    handed: list[Handed] = []
    for key in _sources(context):
        try:
            task = store.load_task(context.run.id, key)
        except UnknownName:
            handed.append(Handed(key=key, text="", whole="", note="Nothing has this name.", missing=True))
        else:
            handed.append(_left_by(store, task))
    return tuple(handed)


def peers_of(tasks: Iterable[PeerRecord], *, keep_seconds: float) -> tuple[Peer, ...]:
    """Other tasks of a run as a session sees them."""
    now = time.time()
    return tuple(
        Peer(key=task.key, role=task.role, title=task.title, state=_state(task, now - keep_seconds))
        for task in tasks
    )


def _state(task: PeerRecord, parked_before: float) -> str:
    if task.state not in TASK_TERMINAL:
        return str(task.state)
    if not task.attempts:
        return f"{task.state} (never started)"
    parked = task.ended_at is None or task.ended_at < parked_before
    return f"{task.state} ({'parked' if parked else 'idle'}; a message wakes it)"


def project_instructions(cwd: str) -> str | None:
    """The project's AGENTS.md in this folder, None if there is none that can be read.

    A link that leads out of the folder is not followed.
    """
    folder = Path(cwd).resolve()
    try:
        path = (folder / _INSTRUCTIONS).resolve(strict=True)
        if not path.is_relative_to(folder) or not path.is_file():
            return None
        with path.open("rb") as file:
            body = file.read(_INSTRUCTIONS_MAX_BYTES)
    except OSError:
        return None
    return body.decode("utf-8", "replace").strip() or None


def _sources(context: AttemptContext) -> list[str]:
    """The keys of the steps to read from: dependencies, then shared outputs by their name."""
    outputs: Mapping[str, str] = {
        step.output: step.id for step in context.spec.steps if step.output is not None
    }
    shared = [outputs.get(name, name) for name in context.step.reads]
    return list(dict.fromkeys([*context.step.depends_on, *shared]))


def _left_by(store: RunStore, task: TaskRecord) -> Handed:
    attempt = store.load_attempt(task.attempt_id) if task.attempt_id else None
    result = store.load_result(attempt.result_id) if attempt and attempt.result_id else None
    if result is not None and task.state is TaskState.COMPLETED:
        note = _OVERRIDDEN if "overridden" in result.flags else ""
        return Handed(key=task.key, text=_result_text(store, result), whole=reference(result.body), note=note)
    if task.cause is not None and task.cause.code is CauseCode.DRY_RUN:
        return Handed(key=task.key, text="", whole="", note=_PLACEHOLDER.format(key=task.key), missing=True)
    because = f" ({task.cause.message})" if task.cause else ""
    last = attempt.last_text if attempt else None
    if last is not None and task.attention_pass:
        return Handed(
            key=task.key,
            text=_body(store, last),
            whole=reference(last),
            note=_UNSUBMITTED.format(cause=because),
        )
    return Handed(
        key=task.key, text="", whole="", note=f"It left nothing: {task.state}{because}.", missing=True
    )


def _result_text(store: RunStore, result: ResultRecord) -> str:
    parts = [result.summary]
    if result.data is not None:
        parts.append("data:\n" + json.dumps(result.data, ensure_ascii=False, indent=1))
    parts += [f"artifact {name}:\n{_body(store, artifact)}" for name, artifact in result.artifacts.items()]
    return "\n\n".join(parts)


def _body(store: RunStore, artifact: ArtifactRef) -> str:
    try:
        return store.read_artifact(artifact.sha256).decode("utf-8", "replace")
    except CrewError as error:
        return f"(cannot be read: {error})"
