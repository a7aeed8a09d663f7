"""Setting a project up: what is made, what is kept, what a dry run says."""

import os
from pathlib import Path

import pytest

from crew_plugin.config import InitReport, InitState, Settings, init_project, load_settings
from crew_plugin.errors import ConfigError
from crew_plugin.resources import Kind, Source, discover


def states(report: InitReport) -> dict[str, InitState]:
    return {item.path.relative_to(report.root).as_posix(): item.state for item in report.items}


EVERYTHING = {
    ".crew",
    ".crew/agents",
    ".crew/teams",
    ".crew/workflows",
    ".crew/skills",
    ".crew/config.toml",
    ".crew/.gitignore",
}


def test_a_new_project_gets_everything(tmp_path: Path) -> None:
    assert states(init_project(tmp_path)) == dict.fromkeys(EVERYTHING, InitState.CREATED)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == EVERYTHING
    assert "state/" in (tmp_path / ".crew" / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_what_init_makes_changes_nothing_and_holds_no_resource(tmp_path: Path) -> None:
    init_project(tmp_path)
    settings = load_settings(tmp_path, user_root=tmp_path / "none")
    assert settings.model_dump() == Settings().model_dump()
    assert settings.warnings == ()
    catalog = discover(tmp_path, settings, user_root=tmp_path / "none")
    assert catalog.problems == ()
    assert {item.source for kind in Kind for item in catalog.of(kind).values()} == {Source.BUILTIN}


def test_a_second_time_keeps_what_is_there(tmp_path: Path) -> None:
    init_project(tmp_path)
    config = tmp_path / ".crew" / "config.toml"
    config.write_text("progress = false\n", encoding="utf-8")
    (tmp_path / ".crew" / "skills").rmdir()
    kept = dict.fromkeys(EVERYTHING, InitState.KEPT) | {".crew/skills": InitState.CREATED}
    assert states(init_project(tmp_path)) == kept
    assert config.read_text(encoding="utf-8") == "progress = false\n"


def test_files_are_replaced_only_if_asked(tmp_path: Path) -> None:
    init_project(tmp_path)
    config = tmp_path / ".crew" / "config.toml"
    config.write_text("progress = false\n", encoding="utf-8")
    report = states(init_project(tmp_path, overwrite=True))
    assert report[".crew/config.toml"] is InitState.REPLACED
    assert "# progress = true" in config.read_text(encoding="utf-8")


def test_a_dry_run_writes_nothing_and_says_what_would_be(tmp_path: Path) -> None:
    assert states(init_project(tmp_path, dry_run=True)) == dict.fromkeys(EVERYTHING, InitState.WOULD_CREATE)
    assert list(tmp_path.iterdir()) == []
    init_project(tmp_path)
    report = states(init_project(tmp_path, dry_run=True, overwrite=True))
    assert report[".crew/config.toml"] is InitState.WOULD_REPLACE
    assert report[".crew/agents"] is InitState.KEPT


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / ".crew").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\.crew must be a folder, but something else is there"):
        init_project(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        init_project(tmp_path)
