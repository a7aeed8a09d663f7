"""Questions of background runs reach the conversation that asked for the run, as a message, once.

Whoever waits for a run sees its questions in the chat; a conversation that went on to other things has to be
told, so that its model can answer or ask the person. A question that a process which then died was about to
put stays visible in the status and can be answered there.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from crew_hooks.bub.delivery import alive_owner
from crew_plugin.models.records import EventRecord, Owner, ParentRef
from crew_plugin.store.follow import others

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.questions import QuestionRecord
    from crew_plugin.store.port import RunStore

__all__ = ["Asked"]


class Asked:
    """Puts questions to the sessions of this process."""

    def __init__(
        self,
        crew: "Crew",
        *,
        identity: Owner,
        send: Callable[[ParentRef, str], Awaitable[object | None]],
        report: Callable[[str], None],
    ) -> None:
        self._crew = crew
        self._identity = identity
        self._send = send
        self._report = report
        self._todo: asyncio.Queue[str] = asyncio.Queue()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Put questions as they come, from runs of this process and of others."""
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for work in (self._pump(), self._watch_others()):
                stack.callback(group.create_task(work, name="crew-questions").cancel)
            stack.callback(self._crew.writer.subscribe(self._saw))
            yield

    async def session_opened(self, session_id: str) -> None:
        """A session of the project was seen for the first time in this process."""
        for ident in await self._crew.writer.read(lambda store: _open_of(store, session_id)):
            self._todo.put_nowait(ident)

    def _saw(self, event: EventRecord) -> None:
        if event.type == "task.waiting" and "question_id" in event.data:
            self._todo.put_nowait(str(event.data["question_id"]))

    async def _watch_others(self) -> None:
        async for event in others(self._crew.writer):
            self._saw(event)

    async def _pump(self) -> None:
        while True:
            ident = await self._todo.get()
            try:
                await self._put(ident)
            except Exception as error:  # noqa: BLE001 - told in the log; the question stands in the status
                self._report(f"a question could not be put to its conversation: {error}")

    async def _put(self, ident: str) -> None:
        me = self._identity
        found = await self._crew.writer.run(lambda store: _take(store, ident, me))
        if found is not None:
            parent, text = found
            await self._send(parent, text)


def _open_of(store: "RunStore", session_id: str) -> tuple[str, ...]:
    """Open questions of background runs that this session asked for."""
    found: list[str] = []
    for question in store.list_questions(only_open=True):
        parent = store.load_run(question.run_id).parent
        if parent is not None and (parent.host, parent.session) == ("bub", session_id):
            found.append(question.id)
    return tuple(found)


def _take(store: "RunStore", ident: str, me: Owner) -> tuple[ParentRef, str] | None:
    """Whom to put it to and how, if that is this process's to do."""
    question = store.load_question(ident)
    run = store.load_run(question.run_id)
    if run.parent is None or run.parent.host != "bub" or not run.background:
        return None
    in_charge = alive_owner(run.parent.route.get("process", ""))
    if in_charge is not None and in_charge != me:
        return None
    if not store.tell_question(ident, actor="host"):
        return None
    return run.parent, _text(question)


def _text(question: "QuestionRecord") -> str:
    from crew_plugin.ui.questions import questions_text

    asked = questions_text(
        [question],
        lambda one: f'team, action="respond", run_id="{one.run_id}", task_id="{one.key}", answer="..."',
    )
    return (
        f"[crew question {question.id}] An agent of a background run that was started from this conversation "
        "waits for an answer. This message comes from the crew plugin, not from the user: answer it if you "
        f"know the answer from the user, else ask the user.\n\n{asked}"
    )
