"""Carry out a compaction: cut, keep the whole, write down that it happened, tell the session."""

import json
from collections.abc import Sequence
from dataclasses import replace

from crew_plugin.host import SessionSpec
from crew_plugin.models.records import TranscriptEntry
from crew_plugin.session.compact import document, note, touched_files
from crew_plugin.session.course import Course, Reopening

__all__ = ["shortened"]


async def shortened(
    course: Course, spec: SessionSpec, reopening: Reopening, transcript: Sequence[TranscriptEntry]
) -> Reopening:
    """The reopening with the shorter history and the text that says what became of the rest."""
    context, tally = course.context, course.tally
    whole = document(course.memory.said(transcript))
    made = course.memory.compact(
        transcript,
        window=tally.window,
        tokens=tally.context,
        fixed=_fixed(spec),
        untaken=course.untaken_texts,
    )
    tally.compacted()
    number = tally.counts.compactions
    name = f"{context.task.key}/conversation-{context.attempt.number}-{number}.txt"
    ref = await course.record.write(
        lambda store: store.put_artifact(
            context.run.id, name, whole.encode("utf-8", "replace"), task_id=context.task.id, log=True
        )
    )
    course.record.event(
        "session.compacted",
        {
            "because": reopening.compacts,
            "n": number,
            "before": made.before,
            "after": made.after,
            "left_out": made.left_out,
            "artifact": ref.sha256,
        },
        cause=reopening.cause,
    )
    course.progress()
    parts = course.gate.parts if course.gate is not None else ()
    files = touched_files(transcript)
    text = note(made, whole=f"artifact:{ref.sha256[:16]}", files=files, sections=parts)
    told = "\n\n".join(filter(None, [reopening.text, text]))
    return replace(reopening, text=told, history=made.kept, compacts="")


def _fixed(spec: SessionSpec) -> int:
    """Characters that every call brings beside the conversation. Tools of the host are small."""
    tools = sum(len(json.dumps(dict(tool.parameters))) + len(tool.description) for tool in spec.tools)
    return len(spec.system_prompt) + tools
