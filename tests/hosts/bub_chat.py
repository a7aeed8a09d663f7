"""A Bub in this process, with our plugin, a channel to talk through, and a scripted model."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from bub.channels.admission import AdmitDecision, TurnSnapshot
from bub.channels.base import Channel
from bub.channels.contracts import MessageHandler
from bub.channels.manager import ChannelManager
from bub.channels.message import ChannelMessage
from bub.envelope import Envelope
from bub.framework import BubFramework
from bub.hooks import hookimpl

from crew_hooks.bub import plugin
from crew_hooks.bub.binding import CrewPlugin
from crew_plugin.models.records import DeliveryRecord
from crew_plugin.project import Project, find_project
from crew_plugin.store.port import RunStore
from crew_plugin.store.sqlite import SqliteStore
from crew_plugin.testing.conversation import Conversation, Reply, Script, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer
from crew_plugin.testing.scripts import submission

__all__ = ["Chat", "chat", "framework_with_crew", "read_store", "team_script"]

SESSION = "test:chat"


class TalkChannel(Channel):
    """What a person says goes in, what Bub answers comes out; busy turns are steered."""

    name: ClassVar[str] = "talk"

    def __init__(self, handler: MessageHandler) -> None:
        self._handler = handler
        self.answers: asyncio.Queue[str] = asyncio.Queue()
        self.left = asyncio.Event()
        """Set to leave the chat: a manager that is cancelled instead leaves tasks behind."""

    async def start(self, stop_event: asyncio.Event) -> None:
        self.left = stop_event

    async def stop(self) -> None:
        return

    async def send(self, message: ChannelMessage) -> None:
        self.answers.put_nowait(message.content)

    async def admit_message(
        self, session_id: str, message: Envelope, turn: TurnSnapshot
    ) -> AdmitDecision | None:
        return AdmitDecision("steer") if turn.is_running else None

    async def say(self, text: str, session: str = SESSION) -> None:
        await self._handler(
            ChannelMessage(
                session_id=session,
                channel=self.name,
                content=text,
                kind="command" if text.startswith(",") else "normal",
                context={"thread_id": session},
            )
        )


class TalkPlugin:
    """Brings the channel."""

    def __init__(self) -> None:
        self.channel: TalkChannel | None = None

    @hookimpl
    def provide_channels(self, message_handler: MessageHandler) -> list[Channel]:
        self.channel = TalkChannel(message_handler)
        return [self.channel]


@dataclass(slots=True)
class Chat:
    """A running Bub to talk to."""

    framework: BubFramework
    crew: CrewPlugin
    channel: TalkChannel
    server: ScriptedModelServer
    project: Project
    heard: list[str] = field(default_factory=list[str])

    async def say(self, text: str, session: str = SESSION) -> None:
        await self.channel.say(text, session)

    async def hear(self, wanted: str) -> str:
        """Wait for an answer that holds `wanted`; all answers stand in `heard`."""
        for answer in self.heard:
            if wanted in answer:
                return answer
        while True:
            answer = await self.channel.answers.get()
            self.heard.append(answer)
            if wanted in answer:
                return answer

    def store[T](self, look: Callable[[RunStore], T]) -> T:
        return read_store(self.project, look)

    def deliveries(self) -> list[DeliveryRecord]:
        if not self.project.database.exists():
            return []
        return self.store(lambda store: store.list_deliveries())

    async def until(self, seen: Callable[[], bool]) -> None:
        """Look from the outside until it is so; the test's timeout bounds it."""
        while not await asyncio.to_thread(seen):  # noqa: ASYNC110 - the store only tells by being looked at
            await asyncio.sleep(0.02)


def read_store[T](project: Project, look: Callable[[RunStore], T]) -> T:
    """Look into a project's store from the outside."""
    with contextlib.closing(SqliteStore(project.database, project.artifacts)) as store:
        return look(store)


def framework_with_crew(folder: Path, monkeypatch: pytest.MonkeyPatch, base_url: str) -> BubFramework:
    """A framework with Bub's own hooks, pointed at a project and a home of its own."""
    project = folder / "project"
    project.mkdir(parents=True, exist_ok=True)
    (project / "app.py").write_text("def login(name):\n    return True\n", encoding="utf-8")
    (project / ".crew").mkdir(exist_ok=True)
    monkeypatch.setenv("CREW_RUNTIME__BACKGROUND", "host")  # runs stay where they can be looked at
    monkeypatch.setenv("BUB_HOME", str(folder / "bub"))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("BUB_MODEL", "openai:scripted")
    monkeypatch.setenv("BUB_API_KEY", "test")
    monkeypatch.setenv("BUB_API_BASE", base_url)
    framework = BubFramework(config_file=folder / "bub" / "config.yml")
    framework.workspace = project
    framework.load_builtin_hooks()
    return framework


@asynccontextmanager
async def chat(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: Script, *, latency: float = 0.0
) -> AsyncIterator[Chat]:
    """Bub's channel manager, running, as `bub gateway` and `bub chat` run it."""
    async with ScriptedModelServer(script, latency=latency) as server:
        framework = framework_with_crew(folder, monkeypatch, server.base_url)
        crew = plugin(framework)
        assert isinstance(crew, CrewPlugin)
        talk = TalkPlugin()
        framework.plugin_manager.register(crew, name="crew")
        framework.plugin_manager.register(talk, name="talk")
        manager = ChannelManager(framework, enabled_channels=["talk"], stream_output=True)
        assert talk.channel is not None
        running = asyncio.create_task(manager.listen_and_run())
        try:
            yield Chat(
                framework=framework,
                crew=crew,
                channel=talk.channel,
                server=server,
                project=find_project(framework.workspace),
            )
        finally:
            talk.channel.left.set()
            await asyncio.gather(running, return_exceptions=True)
            gc.collect()  # the clients that Bub left open, while that is still expected


def team_script(conversation: Conversation) -> Reply:
    """A parent that does as it is told, and workers that hand in what they were asked."""
    if conversation.offered("submit_result"):
        handed_in = submission(conversation)
        summary = f"REPORT of {conversation.first_user[-400:]}"
        return Reply(
            calls=(ToolUse(name=handed_in.name, arguments={**handed_in.arguments, "summary": summary}),)
        )
    results = conversation.new_results
    if results:
        return Reply(text=f"TOOL SAID {results[-1].text}")
    said = conversation.last_user
    if "[crew delivery" in said:
        return Reply(text=f"RECEIVED {said}")
    if "in the background" in said:
        return Reply(
            calls=(
                ToolUse(
                    name="team",
                    arguments={"action": "run", "agent": "explorer", "goal": said[-200:], "async": True},
                ),
            )
        )
    if "use an agent" in said:
        return Reply(
            calls=(
                ToolUse(name="team", arguments={"action": "run", "agent": "explorer", "goal": said[-200:]}),
            )
        )
    return Reply(text=f"YOU SAID {said}")
