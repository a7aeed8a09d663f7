"""`runs`, `status`, `show` and `events`: what is written down, read from the store."""

import json as json_module
import sys
from collections.abc import Mapping
from typing import Any

from crew_plugin.cli.invoke import print_json
from crew_plugin.cli.place import Place, program, terminal_width
from crew_plugin.cli.respond import how_to_answer
from crew_plugin.errors import BodyRemoved, InvalidValue, UnknownName
from crew_plugin.models.records import ArtifactRef, EventRecord, TranscriptEntry
from crew_plugin.models.states import RunState
from crew_plugin.store.port import RunStore
from crew_plugin.ui.events import event_line, events_text
from crew_plugin.ui.questions import questions_text
from crew_plugin.ui.receipts import letters, mail_text
from crew_plugin.ui.shapes import event_json, mail_json
from crew_plugin.ui.text import artifacts_text, attempts_text, printable, result_text, runs_text, status_text
from crew_plugin.ui.views import (
    DRY_RUN,
    LOST,
    RunView,
    TaskView,
    last_text,
    mail_to_people,
    result_views,
    run_document,
    run_rows,
    run_view,
    task_names,
)

__all__ = ["events", "runs", "show", "status"]

_FOLLOW_SECONDS = 0.2


def runs(*, place: Place, json: bool, limit: int) -> int:
    """List runs."""
    if limit < 1:
        raise InvalidValue("--limit", limit, "at least 1")
    with place.reading() as store:
        rows = run_rows(store, limit=limit)
    if json:
        print_json({"runs": [row.as_json() for row in rows]})
    else:
        print(runs_text(rows, width=terminal_width()))
    return 0


def status(*, place: Place, json: bool, run: str) -> int:
    """Show where one run stands."""
    with place.reading_run(run) as (store, run_id):
        view = run_view(store, run_id)
    if json:
        print_json(view.as_json())
        return 0
    print(status_text(view))
    if view.questions:
        print(questions_text(view.questions, how_to_answer(place)))
    if view.dead_letters:
        print(f"try again:  {program()} deadletters requeue {view.id}{place.options()}")
    if view.shown_state == LOST:
        if how := _how_it_ended(place, view.id):
            print(how)
        print(f"go on:      {program()} resume {view.id}{place.options()}")
        print(f"close it:   {program()} cancel {view.id}{place.options()}")
    elif view.row.state is RunState.BLOCKED:
        held = ",".join(f"{task.key}=continue" for task in view.tasks if task.hold)
        print(f"decide:     {program()} resume {view.id} --decide {held}{place.options()}")
    log = place.find().log_of(view.id)
    if log.exists():
        print(f"log of its supervisor: {log}")
    return 0


def _how_it_ended(place: Place, run_id: str) -> str:
    """What the guardian of a detached supervisor saw; nothing where there was none."""
    with place.reading() as store:
        events = store.tail(run_id, limit=1_000_000)
    seen = [event for event in events if event.type == "run.supervisor_ended"]
    return f"its supervisor (process {seen[-1].data['pid']}) was {seen[-1].data['how']}" if seen else ""


def show(
    *,
    place: Place,
    json: bool,
    run: str,
    task: str | None,
    result: bool,
    transcript: bool,
    prompt: bool,
    mail: bool,
    artifact: str | None,
) -> int:
    """Show results, transcripts, prompts or a stored body, whole."""
    if sum((result, transcript, prompt, mail, artifact is not None)) > 1:
        allowed = "one of --result, --transcript, --prompt, --mail, --artifact"
        raise InvalidValue("show", "several at once", allowed)
    with place.reading_run(run) as (store, run_id):
        view = run_view(store, run_id)
        if artifact is not None:
            return _show_artifact(store, artifact, as_json=json)
        tasks = _chosen(view, task)
        if mail:
            return _show_mail(store, view, tasks, as_json=json)
        if transcript or prompt:
            parts = [_session_json(store, entry, prompt=prompt) for entry in tasks]
            if json:
                print_json({"run_id": view.id, "tasks": parts})
            else:
                print("\n\n".join(_session_text(part) for part in parts))
            return 0
        if json:
            print_json(run_document(store, view, tasks))
        else:
            print(_results_text(store, view, tasks))
    return 0


def events(*, place: Place, json: bool, run: str, follow: bool, after: int, limit: int) -> int:
    """List the events of a run; with `follow`, until it is over."""
    if limit < 0:
        raise InvalidValue("--limit", limit, "0 or more")
    if limit and follow:
        raise InvalidValue("--limit", limit, "used without --follow, which goes on until the run is over")
    with place.reading_run(run) as (store, run_id):
        if follow:
            _follow(store, run_id, after, as_json=json)
            if run_view(store, run_id).shown_state == LOST:
                closing = f"{program()} cancel {run_id}{place.options()}"
                print(f"crew: the run's supervisor is gone; close it: {closing}", file=sys.stderr)
            return 0
        names = task_names(store, run_id)
        found: list[EventRecord] = []
        while (not limit or len(found) < limit) and (batch := store.tail(run_id, after_seq=after)):
            found.extend(batch)
            found = found[:limit] if limit else found
            after = found[-1].seq
        more = bool(limit and store.tail(run_id, after_seq=after, limit=1))
        if json:
            told = [event_json(event, names) for event in found]
            print_json({"run_id": run_id, "events": told, "next_seq": after, "more": more})
        else:
            print(events_text(found, names))
            if more:
                print(f"more: {program()} events {run_id} --after {after} --limit {limit}{place.options()}")
    return 0


def _follow(store: RunStore, run_id: str, after: int, *, as_json: bool) -> None:
    import time

    while True:
        # Read before the events: what was over before its last event was read is told in full.
        over = _over(store, run_id)
        version = store.data_version()
        names = task_names(store, run_id)
        while batch := store.tail(run_id, after_seq=after):
            after = batch[-1].seq
            for event in batch:
                line = (
                    json_module.dumps(event_json(event, names), ensure_ascii=False)
                    if as_json
                    else event_line(event, names)
                )
                if line is not None:
                    print(line)
        sys.stdout.flush()
        if over:
            return
        while store.data_version() == version and not _over(store, run_id):
            time.sleep(_FOLLOW_SECONDS)


def _over(store: RunStore, run_id: str) -> bool:
    """Whether a run has ended or lost its supervisor."""
    return run_view(store, run_id).row.over


def _chosen(view: RunView, task: str | None) -> tuple[TaskView, ...]:
    if task is None:
        return view.tasks
    found = view.task(task)
    if found is None:
        raise UnknownName("task", task, [known.key for known in view.tasks])
    return (found,)


def _show_mail(store: RunStore, view: RunView, tasks: tuple[TaskView, ...], *, as_json: bool) -> int:
    keys = {task.key for task in tasks}
    whole = len(tasks) == len(view.tasks)
    messages = [
        message
        for message in store.list_messages(view.id)
        if whole or message.recipient in keys or message.sender in keys
    ]
    if as_json:
        print_json({"run_id": view.id, "mail": [mail_json(message) for message in messages]})
    else:
        print(mail_text(messages))
    return 0


def _show_artifact(store: RunStore, sha256: str, *, as_json: bool) -> int:
    try:
        body: str | None = store.read_artifact(sha256).decode("utf-8", errors="replace")
        removed = None
    except BodyRemoved as gone:
        body, removed = None, gone.story
    if as_json:
        print_json({"artifact": sha256, "text": body, "removed": removed})
    else:
        print(printable(body or "") if removed is None else f"artifact {sha256} was {removed}")
    return 0


# --- results -------------------------------------------------------------------------------


def _results_text(store: RunStore, view: RunView, tasks: tuple[TaskView, ...]) -> str:
    by_task = {result.task.key: result for result in result_views(store, view.id)}
    parts: list[str] = []
    if len(tasks) != 1:
        parts.append(status_text(view))
    for task in tasks:
        head = f"## {task.key} ({task.agent}): {task.shown_state}"
        if len(tasks) == 1 and task.tries:
            head += "\n" + "\n".join(attempts_text(task))
        if task.key in by_task:
            body = f"result {by_task[task.key].record.id}\n{result_text(by_task[task.key], limit=None)}"
        else:
            body = _no_result(store, task)
        parts.append(f"{head}\n{body}".rstrip())
    keys = {task.key for task in tasks}
    parts += letters([each for each in mail_to_people(store, view.id) if each.sender in keys])
    refs = store.list_artifacts(view.id)
    if len(tasks) != 1 and refs:
        parts.append("artifacts:\n" + artifacts_text(refs, task_names(store, view.id)))
    return "\n\n".join(parts)


def _no_result(store: RunStore, task: TaskView) -> str:
    if task.shown_state == DRY_RUN:
        return "no result: its prompt was written, no model was asked; --prompt shows it"
    lines = ["no result"]
    if task.cause is not None:
        lines = [f"no result; {printable(str(task.cause))}"]
        if task.cause.detail:
            lines.append(printable(task.cause.detail))
    text = last_text(store, task)
    if text:
        lines.append(f"the last text of its model:\n{printable(text)}")
    return "\n".join(lines)


# --- sessions ------------------------------------------------------------------------------


def _session_json(store: RunStore, task: TaskView, *, prompt: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"task": task.key, "agent": task.agent, "attempts": []}
    for attempt in store.list_attempts(task.id):
        one: dict[str, Any] = {"attempt": attempt.number, "state": str(attempt.state)}
        if prompt:
            ref = store.load_session(attempt.session_id).prompt
            one["prompt"] = _prompt(store, ref) if ref else None
        else:
            one["transcript"] = [_entry_json(entry) for entry in store.read_transcript(attempt.session_id)]
        facts["attempts"].append(one)
    return facts


def _prompt(store: RunStore, ref: ArtifactRef) -> str:
    try:
        return store.read_artifact(ref.sha256).decode("utf-8", errors="replace")
    except BodyRemoved as gone:
        return f"({gone})"


def _entry_json(entry: TranscriptEntry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "at": entry.at,
        "role": entry.role,
        "content": entry.content,
        "data": dict(entry.data),
    }


def _session_text(part: Mapping[str, Any]) -> str:
    lines = [f"## {part['task']} ({part['agent']})"]
    if not part["attempts"]:
        lines.append("not started")
    for attempt in part["attempts"]:
        if len(part["attempts"]) > 1:
            lines.append(f"# attempt {attempt['attempt']}: {attempt['state']}")
        if "prompt" in attempt:
            lines.append(attempt["prompt"] or "no prompt was written down")
        for entry in attempt.get("transcript", ()):
            lines.extend(_entry_lines(entry))
    return printable("\n".join(lines))


def _entry_lines(entry: Mapping[str, Any]) -> list[str]:
    data = entry["data"]
    name = f" {data['name']}" if data.get("name") else ""
    lines = [f"--- {entry['seq']} {entry['role']}{name}"]
    if entry["content"]:
        lines.append(entry["content"])
    lines.extend(
        f"calls {call.get('name', '')} {call.get('arguments', '')}" for call in data.get("tool_calls", ())
    )
    return lines
