"""From an attempt to the prompt of its session, which is kept before any model sees it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import CallerError
from crew_plugin.models.mail import MessageRecord, MessageState
from crew_plugin.models.records import ArtifactRef, Effect, SectionRecord, TranscriptEntry
from crew_plugin.session import words
from crew_plugin.session.compact import Cut, cut
from crew_plugin.session.contract import ResultContract
from crew_plugin.session.fence import reference
from crew_plugin.session.history import HISTORY_CHARS
from crew_plugin.session.mail import Mailbox
from crew_plugin.session.material import handed_on, peers_of, project_instructions
from crew_plugin.session.prompt import (
    GOAL_LIMIT,
    SHOWN_PEERS,
    SHOWN_TOLD,
    TASK_LIMIT,
    Prompt,
    PromptInputs,
    build_prompt,
    system_of,
    wanted_of,
)
from crew_plugin.session.sections import Section
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["Prepared", "contract_of", "folder_of", "prepare", "prepare_again"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prompt, where it is kept, and the mail that it holds."""

    prompt: Prompt
    artifact: ArtifactRef
    mail: tuple[MessageRecord, ...]
    history: tuple[TranscriptEntry, ...] = ()
    """The conversation that this one goes on with."""
    known: int = 0
    """How much of its own transcript that stands for."""
    parts: tuple[Section, ...] = ()
    """The parts of a result that it has handed in already."""
    touched_the_world: bool = False
    """Whether it has begun a call that cannot be repeated without thought."""


def folder_of(context: AttemptContext) -> str:
    """The session's folder."""
    return str(Path(context.spec.cwd, context.step.cwd or ""))


async def contract_of(context: AttemptContext) -> ResultContract:
    """The result contract of a session: the caller's schema, else the step's, else the agent's."""
    wanted = wanted_of(context.spec, context.step)
    if wanted.schema is None:
        return ResultContract()
    # Compiling imports a library the first time, which takes longer than the loop may stand.
    return await anyio.to_thread.run_sync(lambda: ResultContract(wanted.schema, wanted.mode, wanted.form))


async def prepare(
    context: AttemptContext, writer: StoreWriter, box: Mailbox, tools: Sequence[str]
) -> Prepared:
    """Build the prompt and keep it. Raises `CallerError` if the session's folder is none."""
    cwd = folder_of(context)

    def build(store: RunStore) -> Prepared:
        if not Path(cwd).is_dir():
            raise CallerError(f"the working folder {cwd!r} of task {context.task.key!r} does not exist")
        agent = context.spec.agents[context.step.agent]
        peers, tasks = store.list_peers(context.run.id, context.task.key, limit=SHOWN_PEERS)
        mail = tuple(store.take_messages(context.run.id, context.task.key))
        past = _past(store, context)
        told = _told_before(store, context)
        inputs = PromptInputs(
            run_id=context.run.id,
            spec=context.spec,
            step=context.step,
            agent=agent,
            cwd=cwd,
            tools=tools,
            result=wanted_of(context.spec, context.step),
            goal_whole=_kept(store, context, "goal.md", context.spec.goal, GOAL_LIMIT),
            task_whole=_kept(store, context, f"{context.task.key}/task.md", context.step.task, TASK_LIMIT),
            project=project_instructions(cwd) if agent.project_context else None,
            handed=handed_on(store, context),
            peers=peers_of(peers, keep_seconds=box.policy.keep_seconds),
            more_peers=tasks - len(peers),
            mail=mail,
            told_before=told[-SHOWN_TOLD:],
            more_told=max(0, len(told) - SHOWN_TOLD),
            continued=words.resumed(left_out=past.left_out) if past else "",
        )
        prompt = build_prompt(inputs)
        name = f"{context.task.key}/prompt-{context.attempt.number}.md"
        body = prompt.document().encode("utf-8", "replace")
        artifact = store.put_artifact(context.run.id, name, body, task_id=context.task.id)
        history = past.kept if past else ()
        return Prepared(prompt=prompt, artifact=artifact, mail=mail, history=history, known=len(history))

    prepared = await writer.run(build)
    box.heard(prepared.mail)
    return prepared


async def prepare_again(context: AttemptContext, writer: StoreWriter, box: Mailbox) -> Prepared:
    """What a session goes on with whose process is gone: its own prompt and conversation, as they
    are on record, and the mail that it had not got."""
    attempt = context.attempt

    def look(store: RunStore) -> Prepared:
        cwd = folder_of(context)
        if not Path(cwd).is_dir():
            raise CallerError(f"the working folder {cwd!r} of task {context.task.key!r} does not exist")
        artifact = store.load_session(attempt.session_id).prompt
        if artifact is None:
            raise LookupError("there is no prompt of the session that is to go on")
        system = system_of(store.read_artifact(artifact.sha256).decode("utf-8", "replace"))
        entries = store.read_transcript(attempt.session_id)
        made = cut(entries, HISTORY_CHARS)
        shown = {message for entry in made.kept for message in entry.data.get("messages", ())}
        unread = store.list_messages(context.run.id, unread_by=context.task.key)
        return Prepared(
            prompt=Prompt(system=system, first=words.taken_up(left_out=made.left_out)),
            artifact=artifact,
            # It was given these, and was gone before a model saw them: the next model call does.
            mail=tuple(message for message in unread if message.id in shown),
            history=made.kept,
            known=entries[-1].seq if entries else 0,
            parts=tuple(_part(store, section) for section in store.list_sections(attempt.id)),
            touched_the_world=any(
                call.effect is Effect.EXTERNAL for call in store.list_tool_calls(attempt.id)
            ),
        )

    prepared = await writer.run(look)
    box.heard(prepared.mail)
    box.knock()
    return prepared


def _part(store: RunStore, section: SectionRecord) -> Section:
    value = json.loads(store.read_artifact(section.body.sha256))
    return Section(label=section.label, value=value, adds=section.adds)


def _past(store: RunStore, context: AttemptContext) -> Cut | None:
    """The conversation that the session goes on with, as much as there is room for. It becomes part
    of its own transcript, so that it can be gone on with again."""
    if context.step.continues is None:
        return None
    past = cut(store.read_transcript(context.step.continues), HISTORY_CHARS)
    if not past.kept:
        raise CallerError(f"there is no transcript of the session {context.step.continues}")
    store.append_transcript(context.lease, context.attempt.session_id, past.kept)
    return past


def _told_before(store: RunStore, context: AttemptContext) -> list[MessageRecord]:
    """What an earlier attempt at the task was told: this one knows nothing of its conversation."""
    if context.attempt.number == 1:
        return []
    return [
        message
        for message in store.list_messages(context.run.id)
        if message.recipient == context.task.key
        and message.state is MessageState.READ
        and message.delivered_at is not None  # else somebody settled it, and no session had it
    ]


def _kept(store: RunStore, context: AttemptContext, name: str, text: str, limit: int) -> str:
    """Where the whole of a text is that is too long for the prompt."""
    if len(text) <= limit:
        return ""
    return reference(store.put_artifact(context.run.id, name, text.encode("utf-8", "replace")))
