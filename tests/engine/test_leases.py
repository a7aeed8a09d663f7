"""When a supervisor counts as gone."""

import pytest

from crew_plugin.engine.leases import LeaseWatch
from crew_plugin.models.records import Owner, RunRecord
from crew_plugin.models.states import RunState, SessionKind

OWNER = Owner(pid=7, started=1.0, boot_id="boot")


def run_of(epoch: int = 1, renewals: int = 1, *, owner: Owner | None = OWNER) -> RunRecord:
    return RunRecord(
        id="run_1",
        goal="look",
        team="t",
        workflow="w",
        cwd="/",
        state=RunState.RUNNING,
        cause=None,
        spec="{}",
        background=False,
        parent=None,
        epoch=epoch,
        owner=owner,
        renewals=renewals,
        created_at=0.0,
        started_at=0.0,
        ended_at=None,
        wall_seconds=None,
        task_counts={},
        runtime=SessionKind.LIVE,
        runtime_note="",
    )


def test_a_dead_process_is_gone_at_once() -> None:
    (gone,) = LeaseWatch(15, alive=lambda _: False).look([run_of()], 0.0)
    assert gone.still is None
    assert "process 7 is gone" in gone.how


def test_a_count_that_stands_for_a_whole_lease_is_expired() -> None:
    watch = LeaseWatch(15, alive=lambda _: True)
    assert watch.look([run_of(renewals=4)], 0.0) == []
    assert watch.look([run_of(renewals=4)], 14.9) == []
    (gone,) = watch.look([run_of(renewals=4)], 15.0)
    assert gone.still == 4
    assert "stopped renewing" in gone.how


@pytest.mark.parametrize(("epoch", "renewals"), [(1, 5), (2, 4)])
def test_any_sign_of_life_begins_the_wait_anew(epoch: int, renewals: int) -> None:
    watch = LeaseWatch(15, alive=lambda _: True)
    watch.look([run_of(renewals=4)], 0.0)
    later = run_of(epoch, renewals)
    assert watch.look([later], 14.0) == []
    assert watch.look([later], 28.9) == []
    assert len(watch.look([later], 29.0)) == 1


def test_what_was_not_looked_at_for_a_while_is_looked_at_anew() -> None:
    """Whoever slept himself must not take the others for dead."""
    watch = LeaseWatch(15, alive=lambda _: True)
    watch.look([run_of()], 0.0)
    watch.look([], 1.0)
    assert watch.look([run_of()], 100.0) == []


def test_a_run_that_nobody_owns_has_lost_nobody() -> None:
    assert LeaseWatch(0, alive=lambda _: False).look([run_of(owner=None)], 0.0) == []
