"""Who lives."""

import contextlib
import resource
from dataclasses import replace

from crew_plugin.store.liveness import current_owner, owner_alive
from tests.store.processes import dead_process, live_process


def test_this_process_lives_and_is_always_the_same() -> None:
    assert owner_alive(current_owner())
    assert current_owner() == current_owner()


def test_another_process_lives_until_it_ends() -> None:
    with live_process() as owner:
        assert owner_alive(owner)
    assert not owner_alive(owner)


def test_a_reused_pid_is_another_process() -> None:
    mine = current_owner()

    assert not owner_alive(replace(mine, started=mine.started - 1))
    assert not owner_alive(replace(mine, boot_id="an earlier boot"))


def test_a_process_that_ended_is_dead() -> None:
    assert not owner_alive(dead_process())


def test_nobody_is_dead_because_no_file_can_be_opened() -> None:
    mine = current_owner()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limit)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
        alive = owner_alive(mine)
    assert alive
