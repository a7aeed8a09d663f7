"""Which layer wins, what a project may do, and what is said about mistakes."""

from pathlib import Path

import pytest

from crew_plugin.config import Settings, load_settings
from crew_plugin.errors import ConfigError
from crew_plugin.models.spec import LimitsSpec


class Files:
    """A user's folder and a project, without files to begin with."""

    def __init__(self, base: Path) -> None:
        self.user = base / "user"
        self.project = base / "project"
        self.user.mkdir()
        (self.project / ".crew").mkdir(parents=True)

    def load(self, *, user: str = "", project: str = "") -> Settings:
        (self.user / "config.toml").write_text(user, encoding="utf-8")
        (self.project / ".crew" / "config.toml").write_text(project, encoding="utf-8")
        return load_settings(self.project, user_root=self.user)

    def warned(self, *, user: str = "", project: str = "") -> list[str]:
        """The warnings, with the files called by one word each."""
        names = {
            str(self.user / "config.toml"): "USER",
            str(self.project / ".crew" / "config.toml"): "PROJECT",
        }
        lines = list(self.load(user=user, project=project).warnings)
        for path, name in names.items():
            lines = [line.replace(path, name) for line in lines]
        return lines


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "none", user_root=tmp_path / "none")
    assert settings.model_dump() == Settings().model_dump()
    assert settings.warnings == ()
    assert settings.sources == {}
    assert settings.limits.session() == LimitsSpec()


def test_a_later_layer_wins_and_each_value_says_where_it_came_from(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREW_LIMITS__STEPS", "7")
    settings = files.load(
        user="model = 'openai:x'\n[limits]\nwidth = 6\nsteps = 50\nidle_seconds = 10",
        project="[limits]\nwidth = 4\nsteps = 40",
    )
    assert (settings.model, settings.limits.width, settings.limits.steps) == ("openai:x", 4, 7)
    assert settings.sources == {
        "model": str(files.user / "config.toml"),
        "limits.width": str(files.project / ".crew" / "config.toml"),
        "limits.idle_seconds": str(files.user / "config.toml"),
        "limits.steps": "CREW_LIMITS__STEPS",
    }
    assert settings.warnings == ()


def test_a_project_can_tighten_and_not_loosen(files: Files) -> None:
    settings = files.load(
        user="[limits]\nwidth = 4\n[result]\nschema_mode = 'strict'",
        project="progress = false\n[limits]\nwidth = 5\nwall_seconds = 60\nrun_wall_seconds = 90\n"
        "[result]\nschema_mode = 'permissive'",
    )
    assert settings.limits.width == 4
    assert (settings.limits.wall_seconds, settings.limits.run_wall_seconds) == (60, 90)
    assert settings.result.schema_mode == "strict"
    assert settings.progress is False
    assert len(settings.warnings) == 2


def test_a_project_can_make_results_strict(files: Files) -> None:
    assert files.load(project="result.schema_mode = 'strict'").result.schema_mode == "strict"


@pytest.mark.parametrize(
    "line",
    [
        "model = 'evil:x'",
        "trusted_projects = ['/']",
        "runtime.mode = 'scaffold'",
        "agents.disable_builtins = true",
        "agents.overrides.explorer.tools = ['bash']",
        "delivery.keep_hours = 1",
    ],
)
def test_what_only_the_user_may_set_is_ignored_in_a_project(files: Files, line: str) -> None:
    settings = files.load(project=line)
    assert settings.model_dump() == Settings().model_dump()
    (warning,) = settings.warnings
    assert "a project's file cannot set this" in warning


def test_a_mistake_is_left_out_and_told_with_place_key_value_and_what_is_right(files: Files) -> None:
    user = """
modl = "x"
width = 3
delivery = "fast"
[limits]
width = "4"
steps = true
wall_seconds = inf
max_dispatches = 0
model_retries = 2
[runtime]
mode = "live"
[agents.overrides.x]
tols = ["read"]
"""
    assert files.warned(user=user) == [
        "USER: modl is no setting; did you mean 'model'? (ignored)",
        "USER: width is no setting; did you mean 'limits.width'? (ignored)",
        'USER: delivery = "fast" is ignored: it must be a table',
        'USER: limits.width = "4" is ignored: it must be a whole number from 1 to 1024',
        "USER: limits.steps = true is ignored: it must be a whole number from 1 to 10000",
        "USER: limits.wall_seconds = Infinity is ignored: it must be a number above 0",
        "USER: limits.max_dispatches = 0 is ignored: it must be a whole number from 1 to 100",
        'USER: runtime.mode = "live" is ignored: it must be one of auto, live-session, '
        "child-process, scaffold",
        "USER: agents.overrides.x.tols is no setting; did you mean 'tools'? (ignored)",
    ]
    assert files.load(user=user).limits.model_retries == 2


def test_overrides_of_agents_are_read_one_key_at_a_time(files: Files) -> None:
    settings = files.load(
        user="[agents]\ndisable_builtins = true\n"
        "[agents.overrides.explorer]\nmodel = false\ntools = ['read']\nskills = 3\n"
    )
    explorer = settings.agents.overrides["explorer"]
    assert (explorer.model, explorer.tools, explorer.skills) == (False, ("read",), None)
    assert settings.agents.disable_builtins
    assert "a list of texts or false" in settings.warnings[0]


def test_the_environment_is_read_as_text_or_json(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CREW_MODEL": "openai:y",
        "CREW_PROGRESS": "off",
        "CREW_LIMITS__RUN_WALL_SECONDS": "null",
        "CREW_LIMITS__WIDTH": "",
        "crew_limits__steps": "9",
        "CREW_AGENTS__OVERRIDES__REVIEWER__MODEL": "false",
        "CREW_AGENTS__OVERRIDES__REVIEWER__TOOLS": '["read"]',
    }.items():
        monkeypatch.setenv(name, value)
    settings = files.load(user="limits.run_wall_seconds = 3")
    assert (settings.model, settings.progress) == ("openai:y", False)
    assert (settings.limits.run_wall_seconds, settings.limits.width, settings.limits.steps) == (None, 8, 9)
    reviewer = settings.agents.overrides["reviewer"]
    assert (reviewer.model, reviewer.tools) == (False, ("read",))
    assert settings.warnings == ()


def test_mistakes_in_the_environment_are_told(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CREW_LIMIT__WIDTH": "3",
        "CREW_LIMITS__WDTH": "3",
        "CREW_LIMITS__STEPS": "many",
        "CREW_RESULT": "{broken",
        "CREW_TRUSTED_PROJECTS": '["/"]',
        "CREW_RUN_ID": "belongs to somebody else",
    }.items():
        monkeypatch.setenv(name, value)
    settings = files.load()
    assert settings.model_dump() == Settings().model_dump()
    assert sorted(settings.warnings) == [
        'CREW_LIMITS__STEPS = "many" is ignored: it must be a whole number from 1 to 10000',
        "CREW_LIMITS__WDTH is no setting; did you mean 'width'? (ignored)",
        "CREW_LIMIT__WIDTH is no setting; did you mean CREW_LIMITS__WIDTH? (ignored)",
        'CREW_RESULT = "{broken" is ignored: it must be a table',
        "CREW_TRUSTED_PROJECTS is ignored: only the user's file can trust a project",
    ]


def test_only_the_users_own_file_can_trust(files: Files) -> None:
    assert files.load(user="trusted_projects = ['/a']").trusted_projects == ("/a",)


def test_a_file_that_is_no_toml_is_an_error_with_the_line(files: Files) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml is not valid TOML: .*line 2"):
        files.load(user="model = 'x'\nwidth = = 3\n")


def test_a_file_that_cannot_be_read_is_an_error(files: Files) -> None:
    (files.user / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(files.project, user_root=files.user)
    (files.user / "config.toml").rmdir()
    (files.user / "config.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_settings(files.project, user_root=files.user)
