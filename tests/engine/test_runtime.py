"""How sessions are executed: what is asked for, what is there, and what comes of the two."""

from collections.abc import Iterable

import pytest

from crew_plugin.engine.runtime import RuntimeFacts, resolve_runtime
from crew_plugin.engine.supervisor import Supervisor
from crew_plugin.errors import HostUnsupported
from crew_plugin.host import EngineCapability, HostCapability, HostInfo
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.spec import RuntimeMode
from crew_plugin.models.states import RunState, SessionKind
from crew_plugin.plugins import build_hooks
from crew_plugin.project import Project
from crew_plugin.session.scaffold import ScaffoldRunner
from crew_plugin.store.writer import StoreWriter
from crew_plugin.testing.fake_runner import FakeRunner
from crew_plugin.ui.text import status_text
from crew_plugin.ui.views import run_view
from crew_tools.team.answer import read_answer
from tests.engine.bench import open_bench, spec_of, step

LIVE, CHILD, SCAFFOLD = SessionKind.LIVE, SessionKind.CHILD, SessionKind.SCAFFOLD
ALL = frozenset(EngineCapability)


def facts(
    *kinds: SessionKind, can: Iterable[EngineCapability] = ALL, host: HostInfo | None = None
) -> RuntimeFacts:
    return RuntimeFacts(
        engines={kind: f"{kind} engine" for kind in kinds}, capabilities=frozenset(can), host=host
    )


@pytest.mark.parametrize(
    ("requested", "there", "kind", "fallback", "reason"),
    [
        ("auto", (LIVE, CHILD, SCAFFOLD), LIVE, False, "cost least"),
        ("auto", (CHILD, SCAFFOLD), CHILD, True, "no engine for live sessions"),
        ("live-session", (LIVE, CHILD), LIVE, False, "live sessions were asked for"),
        ("child-process", (LIVE, CHILD), CHILD, False, "child processes were asked for"),
        ("child-process", (LIVE, SCAFFOLD), LIVE, True, "no runner for child processes"),
        ("scaffold", (LIVE, SCAFFOLD), SCAFFOLD, False, "a dry run was asked for"),
    ],
)
def test_each_mode_gives_its_kind_and_the_reason(
    requested: RuntimeMode, there: tuple[SessionKind, ...], kind: SessionKind, fallback: bool, reason: str
) -> None:
    found = resolve_runtime(requested, facts(*there))
    assert (found.kind, found.fallback, found.requested) == (kind, fallback, requested)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("requested", "there", "why"),
    [
        ("auto", (SCAFFOLD,), "no engine for live sessions, and this host has no runner for child processes"),
        (
            "live-session",
            (CHILD, SCAFFOLD),
            "no engine for live sessions; the kinds of session it has: child",
        ),
        ("child-process", (SCAFFOLD,), "no runner for child processes, and this host has no engine"),
        ("scaffold", (LIVE,), "no runner for dry runs"),
    ],
)
def test_what_cannot_be_had_is_refused_and_never_becomes_a_dry_run(
    requested: RuntimeMode, there: tuple[SessionKind, ...], why: str
) -> None:
    with pytest.raises(HostUnsupported, match=why):
        resolve_runtime(requested, facts(*there))


def test_an_engine_that_lacks_what_a_session_needs_is_not_used() -> None:
    weak = ALL - {EngineCapability.RESTRICT_TOOLS}
    assert resolve_runtime("auto", facts(LIVE, CHILD, can=weak)).kind is CHILD
    with pytest.raises(HostUnsupported, match="lacks what the plan needs: restrict_tools"):
        resolve_runtime("live-session", facts(LIVE, CHILD, can=weak))


def test_what_was_looked_at_names_host_engine_and_runners() -> None:
    can = frozenset({HostCapability.NATIVE_CHILD})
    host = HostInfo(name="bub", version="0.5.1", cwd="/", capabilities=can)
    found = resolve_runtime("auto", facts(LIVE, host=host))
    assert found.looked_at[:3] == (
        "host: bub 0.5.1",
        "what the host offers: native_child",
        "runners: live (live engine)",
    )
    assert "restrict_tools" in found.looked_at[3]


@pytest.mark.anyio
async def test_a_child_runner_that_is_there_is_taken_where_it_is_asked_for(project: Project) -> None:
    async with StoreWriter(project) as writer:
        child = FakeRunner(writer=writer, kind=CHILD)
        live = FakeRunner(writer=writer)
        supervisor = Supervisor(writer=writer, runners={LIVE: live, CHILD: child}, hooks=build_hooks())
        spec = spec_of(step("a"), runtime_requested="child-process")
        run = await supervisor.submit(spec, parent=None, background=False, actor="test")
        ended = await supervisor.execute(run.id)
        events = await writer.read(lambda store: store.tail(run.id))
    assert (ended.state, ended.runtime, ended.runtime_note) == (RunState.COMPLETED, CHILD, "")
    assert (child.order, live.order) == (["a"], [])
    (resolved,) = [event.data for event in events if event.type == "runtime.resolved"]
    assert (resolved["kind"], resolved["requested"], resolved["fallback"]) == (
        "child",
        "child-process",
        False,
    )
    assert "runners: child (fake), live (fake)" in resolved["looked_at"]


@pytest.mark.anyio
async def test_a_fallback_is_on_record_and_shown_in_status_and_answer(project: Project) -> None:
    async with open_bench(project) as bench:
        run = await bench.execute(spec_of(step("a"), runtime_requested="child-process"))
        (resolved,) = await bench.events(run.id, "runtime.resolved")
        view = await bench.writer.read(lambda store: run_view(store, run.id))
        answer = await bench.writer.read(lambda store: read_answer(store, run.id))
    line = "sessions: live; child processes were asked for, but this host has no runner for child processes"
    assert resolved.data["fallback"] is True
    assert run.runtime_note == line.partition("; ")[2]
    assert line in status_text(view)
    assert line in answer.text


@pytest.mark.anyio
@pytest.mark.parametrize("optional", [False, True])
async def test_a_dry_run_is_neither_completed_nor_shown_as_failed(project: Project, optional: bool) -> None:
    steps = (
        step("a", optional=optional, attention="pass"),
        step("b", "a", optional=optional, attention="pass"),
    )
    spec = spec_of(*steps, runtime_requested="scaffold", cwd=str(project.root))
    async with StoreWriter(project) as writer:
        runner = ScaffoldRunner(writer=writer)
        supervisor = Supervisor(writer=writer, runners={SCAFFOLD: runner}, hooks=build_hooks())
        run = await supervisor.submit(spec, parent=None, background=False, actor="test")
        ended = await supervisor.execute(run.id)
        view = await writer.read(lambda store: run_view(store, run.id))
        answer = await writer.read(lambda store: read_answer(store, run.id))
        prompt = await writer.read(
            lambda store: next(
                store.read_artifact(ref.sha256).decode()
                for ref in store.list_artifacts(run.id)
                if ref.name == "b/prompt-1.md"
            )
        )
    assert ended.state is RunState.FAILED  # nothing was done, so nothing is completed
    assert ended.cause is not None
    assert ended.cause.code is CauseCode.DRY_RUN
    assert view.shown_state == "dry run"
    assert [task.shown_state for task in view.tasks] == ["dry run", "dry run"]
    assert view.row.shown_counts == {"dry run": 2}
    assert "[dry run: here stands the result of `a` once there is one]" in prompt
    assert "Nothing was done and nothing may be reported as done" in answer.text
    for misleading in ("needs_attention", "failed", "UNSUBMITTED", "completed"):
        assert misleading not in answer.text
        assert misleading not in status_text(view)
