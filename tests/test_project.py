"""Where a project is."""

import os
import subprocess
from pathlib import Path

import pytest

from crew_plugin.errors import InvalidValue, StateUnwritable
from crew_plugin.project import ensure_state, find_project


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "main"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "a.txt").write_text("a", encoding="utf-8")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_the_nearest_crew_folder_upwards_wins_over_the_git_top(checkout: Path) -> None:
    (checkout / "src" / ".crew").mkdir()
    deep = checkout / "src" / "x"
    deep.mkdir()

    assert find_project(deep).root == checkout / "src"
    assert find_project(checkout).root == checkout


def test_without_crew_folder_it_is_the_git_top(checkout: Path) -> None:
    assert find_project(checkout / "src").root == checkout


def test_without_git_it_is_the_folder_itself(tmp_path: Path) -> None:
    assert find_project(tmp_path).root == tmp_path.resolve()


def test_a_part_of_the_folder_one_stands_in_is_no_project_of_its_own(checkout: Path, tmp_path: Path) -> None:
    part = tmp_path / "plain" / "part"
    part.mkdir(parents=True)
    assert find_project(part, standing=part.parent).root == part.parent
    assert find_project(part, standing=checkout).root == part
    (part / ".crew").mkdir()
    assert find_project(part, standing=part.parent).root == part


def test_the_current_folder_is_where_it_starts(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout / "src")

    assert find_project().root == checkout


def test_an_explicit_project_is_taken_as_it_is(checkout: Path) -> None:
    assert find_project(explicit=checkout / "src").root == checkout / "src"
    with pytest.raises(InvalidValue, match="existing folder"):
        find_project(explicit=checkout / "nowhere")


def test_a_linked_worktree_belongs_to_its_main_checkout(checkout: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    git(checkout, "worktree", "add", "-q", str(linked))

    assert find_project(linked).root == checkout
    assert find_project(linked / "src").root == checkout
    assert find_project(explicit=linked).root == checkout

    (linked / "src" / ".crew").mkdir()
    assert find_project(linked / "src").root == checkout / "src"


def test_a_worktree_of_a_bare_repository_is_a_project_of_its_own(checkout: Path, tmp_path: Path) -> None:
    bare, linked = tmp_path / "bare.git", tmp_path / "linked"
    git(tmp_path, "clone", "-q", "--bare", str(checkout), str(bare))
    git(bare, "worktree", "add", "-q", str(linked))

    assert find_project(linked).root == linked


def test_a_submodule_is_a_project_of_its_own(checkout: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(checkout), "inner")

    assert find_project(outer / "inner" / "src").root == outer / "inner"


def test_paths_are_canonical(checkout: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(checkout, target_is_directory=True)

    assert find_project(link / "src" / "..").root == checkout


def test_state_is_made_on_first_use_and_keeps_itself_out_of_git(checkout: Path) -> None:
    project = find_project(checkout)
    assert not project.state_dir.exists()

    assert ensure_state(project) == checkout / ".crew" / "state"
    ensure_state(project)

    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=checkout, check=True, capture_output=True, text=True
    )
    assert status.stdout == ""


def test_another_state_folder_can_be_given(checkout: Path, tmp_path: Path) -> None:
    project = find_project(checkout, state_dir=tmp_path / "elsewhere")
    ensure_state(project)

    assert project.database == tmp_path / "elsewhere" / "crew.db"
    assert not (checkout / ".crew").exists()


def test_a_state_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / ".crew").write_text("a file where a folder should be", encoding="utf-8")

    with pytest.raises(StateUnwritable, match="--state-dir"):
        ensure_state(find_project(tmp_path))
    assert os.listdir(tmp_path) == [".crew"]
