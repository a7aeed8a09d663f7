"""What a process remembers of the mail of its runs, and for how long."""

from crew_plugin.session.traffic import RATE_SECONDS, Traffic


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_run_is_remembered_while_it_has_a_session_and_a_while_after() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    traffic.opened("run", "a")
    traffic.woken("run", "b")
    clock.now += 100 * RATE_SECONDS
    traffic.opened("another", "a")
    assert traffic.wakes("run", "b") == (1, 1)
    traffic.closed("run", "a", "att-1", "it is done", again=False)
    assert traffic.over("run", "a", "att-1") == "it is done"
    assert traffic.over("run", "a", "att-2") is None
    traffic.opened("no wakes", "a")
    traffic.closed("no wakes", "a", "att-9", "it is done", again=False)
    clock.now += 3 * RATE_SECONDS
    traffic.opened("a third", "a")
    assert sorted(traffic._runs) == ["a third", "another", "run"]
    assert traffic.wakes("run", "b") == (1, 1)
    clock.now += 3601
    traffic.opened("a fourth", "a")
    assert "run" not in traffic._runs


def test_who_is_tried_again_is_not_over() -> None:
    traffic = Traffic(Clock())
    traffic.opened("run", "a")
    traffic.closed("run", "a", "att-1", "the provider failed", again=True)
    assert traffic.over("run", "a", "att-1") is None
