"""`health`: how the sessions of a run are doing, once or for as long as it goes on."""

import json as json_module
import sys
import time

from crew_plugin.cli.invoke import print_json
from crew_plugin.cli.place import Place, terminal_width
from crew_plugin.errors import InvalidValue
from crew_plugin.observe.health import Heartbeats
from crew_plugin.store.port import RunStore
from crew_plugin.ui.health import HealthView, health_text, health_view

__all__ = ["health"]

_LOOK_SECONDS = 0.5
_REDRAW_SECONDS = 1.0
_CLEAR = "\x1b[H\x1b[2J"


def health(*, place: Place, json: bool, run: str, watch: bool, stalled_after: int) -> int:
    """Show the health of one run; with `watch`, until it is over."""
    if stalled_after < 1:
        raise InvalidValue("--stalled-after", stalled_after, "at least 1")
    beats = Heartbeats()
    with place.reading_run(run) as (store, run_id):
        if watch:
            _watch(store, run_id, beats, stalled_after, as_json=json)
            return 0
        view = _looked(store, run_id, beats, stalled_after)
    if json:
        print_json(view.as_json())
    else:
        print(health_text(view, width=terminal_width()))
    return 0


def _looked(store: RunStore, run_id: str, beats: Heartbeats, stalled_after: float) -> HealthView:
    """One look; where nothing has happened for a while, as many as it takes to know whether the
    supervisor still renews its lease. A living one does so every two seconds."""
    view = _look(store, run_id, beats, stalled_after)
    silences = [session.silent for session in view.sessions if session.silent is not None]
    if min(silences, default=stalled_after) < stalled_after:
        return view
    while view.supervisor == "alive":
        time.sleep(_LOOK_SECONDS)
        view = _look(store, run_id, beats, stalled_after)
        if view.still == 0.0:
            break
    return view


def _look(store: RunStore, run_id: str, beats: Heartbeats, stalled_after: float) -> HealthView:
    run = store.load_run(run_id)
    still = beats.note(run.id, run.epoch, run.renewals, time.monotonic())
    return health_view(store, run_id, still=still, stalled_after=stalled_after)


def _watch(store: RunStore, run_id: str, beats: Heartbeats, stalled_after: float, *, as_json: bool) -> None:
    """Say it again whenever it differs: in place on a terminal, one after the other elsewhere."""
    in_place = sys.stdout.isatty() and not as_json
    said: object = None
    while True:
        view = _look(store, run_id, beats, stalled_after)
        facts = _facts(view)
        if in_place:
            print(
                f"{_CLEAR}{health_text(view, width=terminal_width())}\n\nCtrl-C ends the watch, not the run"
            )
        elif facts != said:
            print(
                json_module.dumps(view.as_json(), ensure_ascii=False) if as_json else health_text(view) + "\n"
            )
        said = facts
        sys.stdout.flush()
        if view.row.over:
            return
        time.sleep(_REDRAW_SECONDS)


def _facts(view: HealthView) -> object:
    """What a watcher wants to be told of: all but the seconds that pass."""
    sessions = [
        (each.task, each.state, each.verdict and each.verdict.rating, each.doing, each.counts, each.steps)
        for each in view.sessions
    ]
    return (view.shown_state, view.supervisor, sessions)
