"""The ways in which a person is told of a background run, with real programs."""

import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from crew_plugin.config import Settings
from crew_plugin.config.settings import NotifySettings
from crew_plugin.models.records import NewRun, NewTask, RunRecord
from crew_plugin.notify import ways
from crew_plugin.notify.notice import Notice
from crew_plugin.store.sqlite import SqliteStore
from tests.faults.family import all_gone
from tests.ui.runs import project_in

ESCAPES = "look\x1b]52;c;aGk=\a at\nthis; now \u202e"


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    store = SqliteStore.open(project_in(tmp_path))
    new = NewRun(goal=ESCAPES, team="review", workflow="w", cwd=str(tmp_path), spec="{}", background=True)
    made = store.create_run(new, [NewTask(key="a", title="a", role="r", agent="a")], actor="operator")
    store.close()
    return made


def notice(run: RunRecord) -> Notice:
    return Notice(run=run, kind="failed", about="ended@1", title="crew: review; failed", body=run.goal)


def settings(*command: str) -> Settings:
    return Settings(notify=NotifySettings(how="command", command=command))


def program(folder: Path, name: str, body: str) -> Path:
    """An executable that runs this Python."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_what_is_written_to_a_terminal_cannot_steer_it(
    run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    assert ways.terminal_text("bell", notice(run)) == "\a"
    assert ways.terminal_text("osc9", notice(run)) == (
        "\x1b]9;crew: review; failed: look ]52;c;aGk= at this; now\a"
    )
    assert ways.terminal_text("osc777", notice(run)) == (
        "\x1b]777;notify;crew: review, failed;look ]52;c;aGk= at this; now\a"
    )


def test_a_multiplexer_passes_it_on(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMUX", "/tmp/tmux,1,0")
    text = ways.terminal_text("osc9", notice(run))
    assert text.startswith("\x1bPtmux;\x1b\x1b]9;crew")
    assert text.endswith("\a\x1b\\")


def test_a_command_gets_the_facts_and_no_shell_reads_them(run: RunRecord, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    facts = "{key: text for key, text in os.environ.items() if key.startswith('CREW_NOTICE')}"
    mine = program(tmp_path, "mine", f"json.dump([sys.argv[1:], {facts}], open({str(told)!r}, 'w'))")

    assert ways.run_program(notice(run), settings(str(mine), "$(date)", "a b")) is None

    words, given = json.loads(told.read_text())
    assert words == ["$(date)", "a b"]
    assert given == {
        "CREW_NOTICE_KIND": "failed",
        "CREW_NOTICE_RUN": run.id,
        "CREW_NOTICE_TITLE": "crew: review; failed",
        "CREW_NOTICE_BODY": ESCAPES,
        "CREW_NOTICE_FOLDER": str(tmp_path),
    }


def test_a_goal_of_a_megabyte_and_a_command_that_cannot_be_one_do_no_harm(
    run: RunRecord, tmp_path: Path
) -> None:
    mine = program(tmp_path, "mine", "sys.exit(len(os.environ['CREW_NOTICE_BODY']) != 4000)")
    wide = replace(notice(run), body="x" * 1_000_000)
    assert ways.run_program(wide, settings(str(mine))) is None
    assert "cannot be started" in str(ways.run_program(wide, settings(str(mine), "a\0b")))


def test_a_command_that_fails_says_why(run: RunRecord, tmp_path: Path) -> None:
    mine = program(tmp_path, "mine", "sys.exit('no route to host')")
    said = ways.run_program(notice(run), settings(str(mine)))
    assert said is not None
    assert "ended with exit code 1: no route to host" in said


def test_a_command_that_hangs_is_ended_with_all_it_started(
    run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "_SECONDS", 3.0)
    pid = tmp_path / "pid"
    child = f"p = subprocess.Popen(['sleep', '600']); open({str(pid)!r}, 'w').write(str(p.pid)); p.wait()"
    mine = program(tmp_path, "mine", f"import subprocess\n{child}")

    said = ways.run_program(notice(run), settings(str(mine)))

    assert said is not None
    assert "took more than 3 seconds and was ended" in said
    with suppress(psutil.NoSuchProcess):
        all_gone([psutil.Process(int(pid.read_text()))])


@pytest.mark.skipif(sys.platform != "linux", reason="the desktop's program has another name")
def test_the_desktop_is_told_by_its_own_program(
    run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told.json"
    program(tmp_path, "notify-send", f"json.dump(sys.argv[1:], open({str(told)!r}, 'w'))")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    one = Notice(run=run, kind="question", about="q", title="-x", body="<b>yes & no?</b>")

    assert ways.run_program(one, Settings(notify=NotifySettings(how="desktop"))) is None

    assert json.loads(told.read_text()) == [
        "--app-name=crew",
        "--",
        "-x",
        "&lt;b&gt;yes &amp; no?&lt;/b&gt;",
    ]


def test_what_is_missing_is_named(run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    desktop = Settings(notify=NotifySettings(how="desktop"))
    assert "notify.how is desktop, and this machine has no" in str(ways.problem_with(desktop))
    assert "there is no program 'beep'" in str(ways.problem_with(settings("beep")))
    assert "notify.command is empty" in str(ways.problem_with(settings()))
    assert ways.problem_with(Settings()) is None
    assert ways.run_program(notice(run), desktop) == ways.problem_with(desktop)
