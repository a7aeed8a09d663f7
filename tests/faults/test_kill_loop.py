"""Runs whose processes are killed again and again come to the end that they would have come to anyway."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kill_loop import MODES, KillLoop, Mode, model_process

pytestmark = pytest.mark.bub

LATENCY_MS = 150


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with model_process(LATENCY_MS) as url:
        yield url


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("mode", "kills"), [("detached-child", 4), ("chat", 2)])
def test_killed_processes_lose_nothing_and_double_nothing(
    tmp_path: Path, base_url: str, seed: int, mode: Mode, kills: int
) -> None:
    print(f"to repeat: --seed {seed}")
    tally = KillLoop(tmp_path, base_url, mode, seed=seed).run(kills)
    print(tally)
    assert tally.total > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", MODES)
def test_many_kills_lose_nothing_and_double_nothing(
    tmp_path: Path, base_url: str, seed: int, mode: Mode
) -> None:
    print(f"to repeat: --seed {seed}")
    kills = 0
    while kills < 40:
        kills += KillLoop(tmp_path / str(kills), base_url, mode, seed=seed + kills).run(20).total
