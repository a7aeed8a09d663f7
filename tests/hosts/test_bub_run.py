"""`bub run` and `bub crew` as a person calls them."""

import json
from pathlib import Path

import pytest

from crew_plugin.models.states import RunState
from crew_plugin.project import find_project
from tests.hosts.bub_chat import read_store, team_script
from tests.hosts.bub_terminal import BubHome, run_bub, scripted_model

pytestmark = pytest.mark.bub


def test_the_model_calls_team_and_answers_with_what_the_workers_said(tmp_path: Path) -> None:
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        done = run_bub(home, "run", "use an agent to look at MARKER-17")

    assert done.returncode == 0, done.stderr
    assert "TOOL SAID" in done.stdout
    assert "REPORT of" in done.stdout
    assert "MARKER-17" in done.stdout
    runs = read_store(find_project(home.project), lambda store: store.list_runs())
    assert [run.state for run in runs] == [RunState.COMPLETED]


def test_where_nothing_can_be_delivered_later_the_tool_says_so_and_waits(tmp_path: Path) -> None:
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        done = run_bub(home, "run", "do it in the background: MARKER-18")

    assert done.returncode == 0, done.stderr
    assert "nothing can be delivered to this conversation later" in done.stdout
    assert "REPORT of" in done.stdout
    runs = read_store(find_project(home.project), lambda store: store.list_runs())
    assert [run.background for run in runs] == [False]


def test_a_turn_without_the_crew_leaves_no_state_in_the_project(tmp_path: Path) -> None:
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        done = run_bub(home, "run", "good morning")

    assert done.returncode == 0, done.stderr
    assert "YOU SAID" in done.stdout
    assert sorted(path.name for path in home.project.iterdir()) == ["app.py"]


def test_chat_commands_work_as_the_message_of_bub_run(tmp_path: Path) -> None:
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        run = run_bub(home, "run", ",team run agent=explorer goal='what is in app.py'")
        status = run_bub(home, "run", ",team status")
        helped = run_bub(home, "run", ",team")
        wrong = run_bub(home, "run", ",team destroy")

    assert "REPORT of" in run.stdout, run.stderr
    assert "completed" in status.stdout
    assert "status" in helped.stdout
    assert "cancel" in helped.stdout
    assert wrong.returncode == 0, wrong.stderr
    assert "action must be one of" in wrong.stdout
    assert "Traceback" not in wrong.stderr


def test_a_goal_is_taken_as_it_is_typed(tmp_path: Path) -> None:
    with scripted_model(team_script) as model:
        home = BubHome.make(tmp_path, model.base_url)
        done = run_bub(home, "run", ",team run fast-fix don't break x=1 and y")

    assert done.returncode == 0, done.stderr
    runs = read_store(find_project(home.project), lambda store: store.list_runs())
    assert [run.goal for run in runs] == ["don't break x=1 and y"]


def test_bub_crew_is_the_crew_command(tmp_path: Path) -> None:
    home = BubHome.make(tmp_path, None)
    listed = run_bub(home, "crew", "runs", "--json")
    helped = run_bub(home, "crew", "--help")

    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)["runs"] == []
    assert helped.returncode == 0
    assert "cancel" in helped.stdout


def test_without_a_model_key_the_error_names_the_setting(tmp_path: Path) -> None:
    home = BubHome.make(tmp_path, None)
    done = run_bub(home, "run", ",team run agent=explorer goal='what is in app.py'")

    assert "BUB_API_KEY" in done.stdout
    assert "BUB_MODEL" in done.stdout
