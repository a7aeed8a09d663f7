"""Which files are found, whose wins, and what is said about those that do not."""

import os
from pathlib import Path

import pytest

from crew_plugin.config import AgentOverride, Settings
from crew_plugin.config.settings import AgentSettings
from crew_plugin.errors import InvalidPlan, NotAllowed, UnknownName
from crew_plugin.resources import Catalog, Kind, Source, discover

AGENT = "---\ndescription: {0}\ntools: read\n---\n\n{0} body\n"


class Places:
    """A user's folder and a project, both empty to begin with."""

    def __init__(self, base: Path) -> None:
        self.user = base / "user"
        self.project = base / "project"
        self.user.mkdir()
        self.project.mkdir()

    def write(self, path: str, text: str | bytes) -> Path:
        """A file below the user's folder (`user/...`) or the project's (`project/...`)."""
        where, _, rest = path.partition("/")
        root = self.user if where == "user" else self.project / ".crew"
        file = root / rest
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def look(self, settings: Settings | None = None, previous: Catalog | None = None) -> Catalog:
        return discover(self.project, settings or Settings(), user_root=self.user, previous=previous)

    def trusting(self) -> Settings:
        return Settings(trusted_projects=(str(self.project),))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def told(catalog: Catalog) -> list[str]:
    return [f"{item.path.name}:{item.line}: {item.message}" for item in catalog.problems]


def test_a_user_file_takes_the_place_of_a_builtin_one(places: Places) -> None:
    places.write("user/agents/explorer.md", AGENT.format("mine"))
    catalog = places.look()
    assert catalog.agents["explorer"].source is Source.USER
    (hidden,) = catalog.hidden
    assert (hidden.name, hidden.source) == ("explorer", Source.BUILTIN)
    assert hidden.reason == "the user's file of this name comes first"


@pytest.mark.parametrize("name", ["explorer", "Explorer", "mine"])
def test_a_project_cannot_take_the_place_of_a_builtin_or_user_agent(places: Places, name: str) -> None:
    places.write("user/agents/mine.md", AGENT.format("mine"))
    places.write(f"project/agents/{name}.md", AGENT.format("evil"))
    catalog = places.look()
    assert all(agent.source is not Source.PROJECT for agent in catalog.agents.values())
    (hidden,) = catalog.hidden
    assert "not in the user's trusted_projects" in hidden.reason


def test_the_name_inside_a_file_counts_and_not_what_the_file_is_called(places: Places) -> None:
    places.write("project/agents/harmless.md", "---\nname: executor\n---\nevil")
    catalog = places.look()
    assert catalog.agents["executor"].source is Source.BUILTIN
    assert [item.name for item in catalog.hidden] == ["executor"]


def test_a_project_can_add_names_and_what_it_adds_is_not_trusted(places: Places) -> None:
    places.write("project/agents/local.md", AGENT.format("local"))
    agent = places.look().agents["local"]
    assert (agent.source, agent.trusted, agent.to_spec().trusted) == (Source.PROJECT, False, False)


def test_a_trusted_project_comes_first(places: Places) -> None:
    places.write("user/agents/explorer.md", AGENT.format("mine"))
    places.write("project/agents/explorer.md", AGENT.format("theirs"))
    catalog = places.look(places.trusting())
    agent = catalog.agents["explorer"]
    assert (agent.source, agent.trusted) == (Source.PROJECT, True)
    assert sorted(item.source for item in catalog.hidden) == [Source.BUILTIN, Source.USER]


def test_trust_of_another_folder_is_no_trust_of_this_one(places: Places) -> None:
    places.write("project/agents/explorer.md", AGENT.format("theirs"))
    catalog = places.look(Settings(trusted_projects=(str(places.project.parent), "/elsewhere")))
    assert catalog.agents["explorer"].source is Source.BUILTIN


def test_an_untrusted_project_cannot_take_the_name_of_a_disabled_or_broken_agent(places: Places) -> None:
    places.write("user/agents/broken.md", "no frontmatter")
    places.write("user/agents/resting.md", "---\ndisabled: true\n---\nbody")
    for name in ("broken", "resting", "executor"):
        places.write(f"project/agents/{name}.md", AGENT.format("evil"))
    settings = Settings(agents=AgentSettings(disable_builtins=True))
    catalog = places.look(settings)
    assert catalog.agents == {}
    assert sum(item.source is Source.PROJECT for item in catalog.hidden) == 3


def test_teams_workflows_and_skills_follow_the_same_rule(places: Places) -> None:
    places.write("project/teams/review.team.md", "---\nname: review\n---\n- a: agent=executor")
    places.write("project/workflows/review.workflow.md", "---\nname: review\n---\n## a\nrole: a\n\nevil")
    places.write("project/skills/careful-editing/SKILL.md", "---\nname: careful-editing\n---\nevil")
    catalog = places.look()
    for kind, name in ((Kind.TEAM, "review"), (Kind.WORKFLOW, "review"), (Kind.SKILL, "careful-editing")):
        assert catalog.of(kind)[name].source is Source.BUILTIN
    assert len(catalog.hidden) == 3


def test_settings_change_agents_in_whatever_capitals(places: Places) -> None:
    overrides = {
        "EXPLORER": AgentOverride(model="openai:small", tools=("read",), skills=False),
        "Executor": AgentOverride(disabled=True),
        "reviewer": AgentOverride(tools=False),
        "nobody": AgentOverride(),
    }
    catalog = places.look(Settings(agents=AgentSettings(overrides=overrides)))
    explorer = catalog.agents["explorer"]
    assert (explorer.model, explorer.tools, explorer.skills) == ("openai:small", ("read",), ())
    assert catalog.agents["reviewer"].tools == ()
    assert "executor" not in catalog.agents
    assert [item.message for item in catalog.notices] == [
        "agents.overrides.nobody: there is no agent of this name"
    ]


def test_a_broken_file_is_reported_and_the_others_are_used(places: Places) -> None:
    places.write("project/agents/good.md", AGENT.format("good"))
    places.write("project/agents/bad.md", "---\ntools: [read\n---\nbody")
    places.write("project/agents/huge.md", "---\n---\n" + "x" * 300_000)
    places.write("project/agents/bytes.md", b"---\nname: x\n---\n\xff\xfe")
    places.write("project/agents/b\u00e4d name.md", AGENT.format("x"))
    places.write("project/teams/empty.team.md", "---\n---\n")
    (places.project / ".crew" / "agents" / "folder.md").mkdir()
    catalog = places.look()
    assert "good" in catalog.agents
    assert told(catalog) == [
        "bad.md:3: not valid YAML: did not find expected ',' or ']'",
        "bytes.md:4: is not UTF-8 text: invalid start byte",
        "b\u00e4d name.md:0: 'b\u00e4d name' cannot be a name: letters, digits, '-' and '_', at most 80",
        "folder.md:0: cannot be read: Is a directory",
        "huge.md:0: is larger than 256 KB",
        "empty.team.md:3: has no role; a role is a line '- name: agent=... what it is for'",
    ]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_a_link_that_leads_out_is_a_problem(places: Places, tmp_path: Path) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text(AGENT.format("secret"), encoding="utf-8")
    inside = places.write("project/agents/real.md", AGENT.format("real"))
    (inside.parent / "out.md").symlink_to(secret)
    (inside.parent / "loop.md").symlink_to(inside.parent / "loop.md")
    (inside.parent / "ok.md").symlink_to(inside)
    (places.project / ".crew" / "teams").symlink_to(tmp_path)
    catalog = places.look()
    assert {"real", "ok"} <= set(catalog.agents)
    assert "out" not in catalog.agents
    problems = told(catalog)
    assert any(line.startswith("out.md:0: leads out of") for line in problems)
    assert any(line.startswith("loop.md:0: cannot be read") for line in problems)
    assert any(line.startswith("teams:0: leads out of") for line in problems)


def test_a_user_may_keep_the_whole_folder_elsewhere(places: Places, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.mkdir()
    (real / "mine.md").write_text(AGENT.format("mine"), encoding="utf-8")
    (places.user / "agents").symlink_to(real)
    assert places.look().agents["mine"].source is Source.USER


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_a_problem_and_holds_nobody_up(places: Places) -> None:
    path = places.write("project/agents/x.md", AGENT.format("x")).with_name("pipe.md")
    os.mkfifo(path)
    assert "pipe.md:0: is not a regular file" in told(places.look())


def test_a_file_with_the_wrong_ending_is_mentioned_and_readmes_are_not(places: Places) -> None:
    places.write("project/teams/mine.md", "---\nname: x\n---\n- a: agent=executor")
    places.write("project/teams/README.md", "read me")
    places.write("project/agents/.hidden.md", "nothing")
    catalog = places.look()
    assert [item.message for item in catalog.notices] == [
        "is not read: the file of a team is called <name>.team.md"
    ]
    assert catalog.problems == ()


def test_two_files_of_one_name_do_not_both_count(places: Places) -> None:
    places.write("user/agents/a.md", "---\nname: same\n---\nfirst")
    places.write("user/agents/b.md", "---\nname: same\n---\nsecond")
    catalog = places.look()
    assert catalog.agents["same"].prompt == "first"
    assert [item.reason for item in catalog.hidden] == ["another user file has the same name"]


def test_only_what_changed_is_read_again(places: Places) -> None:
    places.write("user/agents/a.md", AGENT.format("one"))
    path = places.write("user/agents/b.md", "---\nschema: s.json\n---\nbody")
    schema = path.with_name("s.json")
    schema.write_text('{"type": "object"}', encoding="utf-8")
    first = places.look()
    schema.write_text('{"type": "object", "title": "x"}', encoding="utf-8")
    second = places.look(previous=first)
    assert second.agents["a"] is first.agents["a"]
    assert second.agents["explorer"] is first.agents["explorer"]
    assert second.agents["b"].schema != first.agents["b"].schema
    path.unlink()
    assert "b" not in places.look(previous=second).agents


def test_trust_that_was_taken_away_is_not_remembered(places: Places) -> None:
    places.write("project/agents/local.md", AGENT.format("local"))
    trusted = places.look(places.trusting())
    assert trusted.agents["local"].trusted
    assert not places.look(previous=trusted).agents["local"].trusted


def test_a_name_that_is_not_there_is_explained(places: Places) -> None:
    broken = places.write("project/workflows/mine.workflow.md", "---\nname: mine\n---\nprose")
    places.write("user/agents/resting.md", "---\nenabled: false\n---\nbody")
    catalog = places.look()
    error = catalog.missing(Kind.WORKFLOW, "mine")
    assert isinstance(error, InvalidPlan)
    assert f"{broken}:4: has no step" in str(error)
    error = catalog.missing(Kind.AGENT, "resting")
    assert isinstance(error, NotAllowed)
    assert "it is disabled in its file" in str(error)
    error = catalog.missing(Kind.AGENT, "explorr")
    assert isinstance(error, UnknownName)
    assert "did you mean 'explorer'" in str(error)


def test_no_project_and_no_folders_leave_the_builtin_ones(tmp_path: Path) -> None:
    catalog = discover(None, Settings(), user_root=tmp_path / "none")
    assert {agent.source for agent in catalog.agents.values()} == {Source.BUILTIN}
