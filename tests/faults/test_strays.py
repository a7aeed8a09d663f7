"""Commands that leave their session and ignore requests, and processes that are nobody's to end."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from crew_plugin.engine.orphans import OWNER_VARIABLE, end_marked, owner_mark
from crew_plugin.store.liveness import current_owner
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.cli.terminal import crew, document
from tests.cli.test_detached import detached
from tests.cli.test_takeover import home_of, started
from tests.faults.family import all_gone, family_of, workers_of
from tests.faults.stubborn import Stubborn
from tests.hosts.bub_terminal import scripted_model

pytestmark = [pytest.mark.bub, pytest.mark.timeout(120)]

CHILD = ("--runtime", "child-process")


@contextmanager
def planted(environment: Mapping[str, str], *before: str) -> Iterator[int]:
    """A process of somebody else with this environment; its pid."""
    with subprocess.Popen(
        [*before, "sleep", "600"], env={"PATH": os.environ["PATH"], **environment}, start_new_session=True
    ) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "how",
    [pytest.param("cancelled", marks=pytest.mark.long), "supervisor killed", "supervisor and worker killed"],
)
def test_nothing_is_left_of_a_command_that_does_all_it_can_to_stay(tmp_path: Path, how: str) -> None:
    stubborn = Stubborn()

    def script(_: Conversation) -> Reply:
        return Reply(calls=(ToolUse(name="bash", arguments={"command": stubborn.command}),))

    with scripted_model(script) as server, stubborn.ended():
        home = home_of(tmp_path, server.base_url, acts="bash")
        with detached(home, "--agent", "acts", "act", *CHILD) as said:
            stubborn.until_it_runs()
            family, (worker,) = family_of(said["pid"]), workers_of(said["pid"])
            if how == "cancelled":
                crew(home, "cancel", "last")
            else:
                os.kill(said["pid"], signal.SIGKILL)
                if how != "supervisor killed":
                    worker.kill()
            all_gone(family)
            stubborn.until_it_is_gone()
        shown = document(crew(home, "status", "last", "--json"))["shown_state"]
    assert shown == ("cancelled" if how == "cancelled" else "lost")


def test_processes_of_other_supervisors_outlive_everything_that_a_run_does(tmp_path: Path) -> None:
    stubborn = Stubborn()

    def script(_: Conversation) -> Reply:
        return Reply(calls=(ToolUse(name="bash", arguments={"command": stubborn.command}),))

    mine = owner_mark(current_owner())
    others = [
        {"CREW_SESSION": "ses_1"},
        {"CREW_SESSION": "ses_1", OWNER_VARIABLE: mine, "CREW_RUN": "run_1"},
        {"CREW_SESSION": "ses_2", OWNER_VARIABLE: mine, "CREW_STATE_DIR": str(tmp_path / "elsewhere")},
    ]
    with ExitStack() as stack, scripted_model(script) as server, stubborn.ended():
        pids = [stack.enter_context(planted(environment)) for environment in others]
        home = home_of(tmp_path, server.base_url, acts="bash")
        for number in (signal.SIGTERM, signal.SIGKILL):
            with started(home, "--agent", "acts", "act", *CHILD) as process:
                stubborn.until_it_runs()
                family = family_of(process.pid)
                process.send_signal(number)
                process.communicate()
                all_gone(family)
                stubborn.until_it_is_gone()
        crew(home, "cancel", "last")
        assert [lives(pid) for pid in pids] == [True] * len(pids)


def test_a_process_in_a_container_is_left_to_the_container() -> None:
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "--pid", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("only root on Linux can make namespaces")
    mark = {"CREW_TEST": f"{os.getpid()} {time.monotonic_ns()}"}
    with planted(mark, unshare, "--pid", "--fork", "--kill-child") as outer, planted(mark) as here:
        deadline = time.monotonic() + 10
        while not (inner := psutil.Process(outer).children()):
            assert time.monotonic() < deadline
        assert [each.pid for each in end_marked(*mark.popitem(), grace=5, but=outer)] == [here]
        assert lives(inner[0].pid)
