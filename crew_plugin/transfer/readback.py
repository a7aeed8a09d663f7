"""Reading an imported run the way it will be read: what cannot be shown is not imported."""

from crew_plugin.store.port import RunStore
from crew_plugin.ui.events import event_line
from crew_plugin.ui.shapes import event_json
from crew_plugin.ui.text import result_text, status_text
from crew_plugin.ui.views import result_views, run_document, run_view, task_names

__all__ = ["read_back"]


def read_back(store: RunStore, run_id: str) -> None:
    """Read everything of a run once, and put it into words. Raises whatever it raises."""
    view = run_view(store, run_id)
    status_text(view)
    run_document(store, view, view.tasks)
    for result in result_views(store, run_id):
        result_text(result, limit=None)
    for task in view.tasks:
        for attempt in task.tries:
            store.load_session(attempt.session_id)
            store.read_transcript(attempt.session_id)
            store.list_tool_calls(attempt.id)
            for section in store.list_sections(attempt.id):
                store.read_artifact(section.body.sha256)
    store.list_messages(run_id)
    store.list_questions(run_id)
    names, after = task_names(store, run_id), 0
    while events := store.tail(run_id, after_seq=after):
        for event in events:
            event_line(event, names)
            event_json(event, names)
        after = events[-1].seq
