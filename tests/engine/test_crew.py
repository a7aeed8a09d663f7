"""What tools and host adapters are given."""

from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from crew_plugin.config.settings import Settings
from crew_plugin.crew import Crew
from crew_plugin.models.states import RunState
from crew_plugin.project import Project
from crew_plugin.testing.conversation import Conversation, Reply
from crew_plugin.testing.fake_engine import FakeEngine
from tests.engine.bench import open_bench, spec_of, step

pytestmark = pytest.mark.anyio


def silent(conversation: Conversation) -> Reply:
    raise NotImplementedError


async def test_the_catalog_is_what_the_files_say_now(project: Project) -> None:
    async with open_bench(project) as bench:
        crew = Crew(
            project=project,
            settings=Settings(),
            writer=bench.writer,
            supervisor=bench.supervisor,
            engine=FakeEngine(script=silent),
        )
        assert "newcomer" not in (await crew.catalog()).agents
        add_agent(project.root / ".crew" / "agents", "newcomer")
        assert (await crew.catalog()).agents["newcomer"].prompt == "You are new."


def add_agent(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    (folder / f"{name}.md").write_text(f"---\nname: {name}\ndescription: d\n---\nYou are new.\n", "utf-8")


async def test_nothing_of_a_run_blocks_the_loop(project: Project) -> None:
    async with open_bench(project) as bench:
        with blockbuster_ctx():
            run = await bench.execute(spec_of(step("a"), step("b", "a")))
            assert (await bench.supervisor.wait(run.id, 1)).state is RunState.COMPLETED
