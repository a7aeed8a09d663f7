"""The gate in front of a provider: never over its width, never asleep with work to let through."""

from collections.abc import Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_plugin.engine.provider_gate import (
    AT_ONCE,
    LONGEST_PAUSE,
    Flow,
    Place,
    ProviderGate,
    ProviderGates,
    Refused,
    Urgency,
    Verdict,
)
from crew_plugin.errors import EngineError


def flow(start: int = 4, ceiling: int = 8) -> Flow:
    return Flow(start, ceiling, jitter=lambda: 0.0)


def joined(flow: Flow, count: int, urgency: Urgency = Urgency.ORDINARY) -> list[Place]:
    places = [flow.place(urgency) for _ in range(count)]
    for place in places:
        flow.join(place)
    return places


def test_calls_go_in_the_order_they_came() -> None:
    gate = flow(start=2)
    places = joined(gate, 4)
    assert gate.admit(0.0) == places[:2]
    assert gate.ahead(places[3]) == 3
    gate.end(places[0], Verdict.SERVED, 1.0)
    assert gate.admit(1.0) == places[2:3]


def test_a_session_near_its_end_goes_first() -> None:
    gate = flow(start=1)
    ordinary, late, last = (gate.place(urgency) for urgency in Urgency)
    for place in (ordinary, late, last):
        gate.join(place)
    order: list[Place] = []
    for _ in range(3):
        (place,) = gate.admit(0.0)
        gate.end(place, Verdict.FAILED, 0.0)
        order.append(place)
    assert order == [last, late, ordinary]


def test_a_request_that_is_made_again_keeps_its_place() -> None:
    gate = flow(start=1)
    first, second = joined(gate, 2)
    gate.admit(0.0)
    gate.end(first, Refused(0.0), 0.0)
    gate.join(first)
    assert gate.admit(10.0) == [first]
    assert second.waiting


def test_one_wave_of_refusals_halves_the_width_once() -> None:
    gate = flow(start=8)
    places = joined(gate, 8)
    gate.admit(0.0)
    for place in places:
        gate.end(place, Refused(1.0), 0.0)
    assert gate.width == 4


def test_the_width_is_halved_from_what_was_under_way() -> None:
    gate = flow(start=8)
    (place, *_) = joined(gate, 2)
    gate.admit(0.0)
    gate.end(place, Refused(1.0), 0.0)
    assert gate.width == 1


def test_a_pause_holds_for_every_call_and_is_never_shorter_than_asked() -> None:
    gate = flow()
    (place,) = joined(gate, 1)
    gate.admit(0.0)
    gate.end(place, Refused(3.0), 10.0)
    joined(gate, 3)
    assert gate.admit(13.0) == []
    assert gate.admit(13.1) != []


def test_a_pause_beyond_all_bounds_is_cut() -> None:
    gate = flow()
    (place,) = joined(gate, 1)
    gate.admit(0.0)
    gate.end(place, Refused(1e9), 0.0)
    assert gate.opens_at < LONGEST_PAUSE * 1.2


def test_pauses_of_our_own_double_until_something_is_answered() -> None:
    gate = flow()
    now, pauses = 0.0, list[float]()
    (place,) = joined(gate, 1)
    for _ in range(3):
        gate.admit(now)
        gate.end(place, Refused(), now)
        pauses.append(gate.opens_at - now)
        now = gate.opens_at
        gate.join(place)
    assert pauses == [pauses[0], pauses[0] * 2, pauses[0] * 4]
    assert gate.losses(place) == 3
    gate.admit(now)
    gate.end(place, Verdict.SERVED, now)
    assert gate.losses(place) == 0


def test_a_wave_is_not_lost_while_an_earlier_request_is_under_way() -> None:
    gate = flow(start=8)
    served, *others = joined(gate, 8)
    now = 0.0
    for _ in range(4):
        gate.admit(now)
        for place in others:
            if place.held:
                gate.end(place, Refused(0.1), now)
                gate.join(place)
        now += 1.0
    assert served.held
    assert gate.losses(others[0]) == 1
    assert gate.width == 1


def test_answers_let_the_width_grow_by_one_at_a_time_up_to_the_ceiling() -> None:
    gate = flow(start=1, ceiling=3)
    widths = list[int]()
    for _ in range(12):
        joined(gate, 4)
        for place in gate.admit(0.0):
            gate.end(place, Verdict.SERVED, 0.0)
        widths.append(gate.width)
    assert widths[-1] == 3
    assert all(after - before in (0, 1) for before, after in zip([1, *widths], widths, strict=False))


def test_the_more_often_growing_was_refused_the_longer_it_takes_to_be_tried_again() -> None:
    gate = flow(start=1)
    refusals = 0
    now = 0.0
    for _ in range(400):  # a provider that takes one request at a time
        now += 10.0
        joined(gate, 1)
        taken = False
        for place in gate.admit(now):
            verdict: Verdict | Refused = Refused(0.1) if taken else Verdict.SERVED
            refusals += taken
            taken = True
            gate.end(place, verdict, now)
            if isinstance(verdict, Refused):
                gate.join(place)
        joined(gate, 1)
    assert refusals <= 12


@given(
    start=st.integers(1, 6),
    steps=st.lists(st.tuples(st.sampled_from(["join", "quit", "end", "refuse", "late"]), st.integers(0, 50))),
)
def test_never_over_its_width_and_never_idle_with_calls_to_let_through(
    start: int, steps: list[tuple[str, int]]
) -> None:
    gate = Flow(start, 8, jitter=lambda: 0.5)
    now = 0.0
    held, waiting = list[Place](), list[Place]()
    for step, number in steps:
        now += number / 20
        if step in ("join", "late"):
            place = gate.place(Urgency.LATE if step == "late" else Urgency.ORDINARY)
            gate.join(place)
            waiting.append(place)
        elif step == "quit" and waiting:
            gate.quit(waiting.pop(number % len(waiting)))
        elif step in ("end", "refuse") and held:
            gate.end(
                held.pop(number % len(held)), Verdict.SERVED if step == "end" else Refused(number / 10), now
            )
        room = gate.width - gate.held
        admitted = gate.admit(now)
        assert len(admitted) <= max(0, room)
        assert 1 <= gate.width <= gate.ceiling
        for place in admitted:
            waiting.remove(place)
            held.append(place)
        assert gate.held == len(held)
        assert set(gate.waiting()) == set(waiting)
        assert not waiting or now < gate.opens_at or gate.held >= gate.width
    while waiting or held:  # progress: whatever happened, everybody gets through
        now = max(now, gate.opens_at)
        for place in gate.admit(now):
            waiting.remove(place)
            held.append(place)
        assert held
        gate.end(held.pop(), Verdict.SERVED, now)


def quiet(ahead: int) -> None:
    """Nobody wants to know."""


async def serve(gate: ProviderGate, verdicts: Callable[[], Verdict | Refused]) -> None:
    place = gate.place()
    while True:
        await gate.acquire(place, quiet, losses=100)
        await anyio.lowlevel.checkpoint()
        verdict = verdicts()
        gate.release(place, verdict)
        if verdict is Verdict.SERVED:
            return


@pytest.mark.anyio
async def test_tasks_never_make_more_requests_than_the_width_and_all_get_through() -> None:
    gate = ProviderGate("p", flow(start=3, ceiling=3))
    peak = 0

    def verdict() -> Verdict:
        nonlocal peak
        peak = max(peak, gate.flow.held)
        return Verdict.SERVED

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(serve, gate, verdict)
    assert peak == 3
    assert gate.flow.held == 0


@pytest.mark.anyio
async def test_all_wait_for_a_pause_that_one_was_asked_for_and_wake_after_it() -> None:
    gate = ProviderGate("p", Flow(8, 8))
    verdicts: list[Verdict | Refused] = [Refused(0.05)]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(serve, gate, lambda: verdicts.pop() if verdicts else Verdict.SERVED)
    assert gate.flow.held == 0
    assert gate.flow.waiting() == []


@pytest.mark.anyio
async def test_a_cancelled_wait_leaves_the_queue_and_holds_nothing() -> None:
    gate = ProviderGate("p", flow(start=1))
    holder, waiter, third = gate.place(), gate.place(), gate.place()
    await gate.acquire(holder, quiet, losses=3)
    heard = list[int]()
    with anyio.move_on_after(0.01):
        await gate.acquire(waiter, heard.append, losses=3)
    assert heard == [1]
    assert gate.flow.waiting() == []
    gate.release(holder, Verdict.SERVED)
    with anyio.fail_after(5):
        await gate.acquire(third, quiet, losses=3)
    assert gate.flow.held == 1


@pytest.mark.anyio
async def test_a_wait_that_is_cancelled_as_it_ends_gives_its_turn_on() -> None:
    gate = ProviderGate("p", flow(start=1, ceiling=1))
    holder, waiter, third = gate.place(), gate.place(), gate.place()
    await gate.acquire(holder, quiet, losses=3)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def wait() -> None:
                with scope:
                    await gate.acquire(waiter, quiet, losses=3)
                    gate.release(waiter, Verdict.FAILED)

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            gate.release(holder, Verdict.SERVED)
            scope.cancel()
        await gate.acquire(third, quiet, losses=3)
    assert gate.flow.held == 1


@pytest.mark.anyio
async def test_a_provider_that_takes_nobody_is_not_asked_by_everyone_in_turn() -> None:
    gate = ProviderGate("p", flow(start=1))
    first, second = gate.place(), gate.place()
    with anyio.fail_after(5):
        for _ in range(3):
            await gate.acquire(first, quiet, losses=2)
            gate.release(first, Refused(0.0))
        with pytest.raises(EngineError, match="refused every request, 3 times in a row"):
            await gate.acquire(second, quiet, losses=2)


@pytest.mark.anyio
async def test_who_asks_to_go_at_once_goes_or_hears_why_not_and_waits_for_nothing() -> None:
    def waiting(_: int) -> None:
        raise AssertionError("nobody waits")

    gate = ProviderGate("p", flow(start=1), clock=lambda: 0.0)
    first, second = gate.place(), gate.place()
    await gate.acquire(first, waiting, losses=AT_ONCE)
    assert gate.flow.held == 1
    with pytest.raises(EngineError) as busy:
        await gate.acquire(second, waiting, losses=AT_ONCE)
    assert busy.value.retry_after == 0.0
    gate.release(first, Refused(7.0))
    with pytest.raises(EngineError) as paused:
        await gate.acquire(second, waiting, losses=AT_ONCE)
    assert paused.value.retry_after is not None
    assert paused.value.retry_after >= 7.0
    assert gate.flow.head() is None
    assert gate.flow.held == 0


def test_requests_with_one_credential_share_a_gate_and_no_other() -> None:
    gates = ProviderGates(start=4, ceiling=8)
    key = "sk-very-secret"
    gate = gates.gate("openai", "https://user:pw@host/v1", key)
    assert gates.gate("openai", "https://user:pw@host/v1", key) is gate
    others = [
        gates.gate("openai", "https://user:pw@host/v1", "sk-other"),
        gates.gate("openai", "https://elsewhere/v1", key),
        gates.gate("mistral", "https://user:pw@host/v1", key),
        gates.gate("openai", None, None),
    ]
    assert len({id(gate), *map(id, others)}) == 5
    assert gate.name.startswith("openai@host#")
    assert key not in gate.name
    assert "pw" not in gate.name
