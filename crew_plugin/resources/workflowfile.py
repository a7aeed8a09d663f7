"""Workflows: frontmatter, then a section for each step.

    ## step-id
    role: reviewer
    depends_on: explore

    The task, in prose, with headings of its own where it wants them.

A heading begins a step only if the first line after it that is not blank is a key of a step.
"""

import re
from typing import Final

from crew_plugin.models.spec import SchemaForm
from crew_plugin.resources.agentfile import limits_values, named
from crew_plugin.resources.keys import (
    ON_FAILURE,
    SCHEMA_FORMS,
    SCHEMA_MODES,
    Keys,
    Notes,
    Section,
    is_name,
    split_front,
    tidy,
)
from crew_plugin.resources.models import Attention, Step, WorkflowFile
from crew_plugin.resources.yamltext import BadText, Json, dump_given, load_mapping

__all__ = ["STEP_KEYS", "WORKFLOW_KEYS", "parse_workflow", "render_workflow"]

WORKFLOW_KEYS: Final = Keys(
    used=frozenset({"name", "description", "max_concurrency", "on_failure"}),
    waiting=frozenset({"topology", "coalesce_micro_tasks", "runtime", "budget"}),
)

STEP_KEYS: Final = Keys(
    used=frozenset(
        {
            "role",
            "depends_on",
            "reads",
            "output",
            "optional",
            "attention",
            "model",
            "skills",
            "verify",
            "schema",
            "schema_form",
            "schema_mode",
            "limits",
            "resources",
            "task",
        }
    ),
    waiting=frozenset(
        {
            "parallel_group",
            "progress",
            "worktree",
            "seed_paths",
            "spec_refs",
            "spec_strict",
            "pre_step_script",
            "pre_step_args",
            "pre_step_timeout",
            "pre_step_optional",
        }
    ),
    aliases={"skill": "skills"},
)

_ATTENTIONS: Final[tuple[Attention, Attention]] = ("skip", "pass")
_HEADING: Final = ("## ", "##\t")
_KEY_LINE: Final = re.compile(r"(?P<key>[A-Za-z][A-Za-z_-]*)[ \t]*:(?:[ \t].*)?")


def parse_workflow(text: str, notes: Notes) -> WorkflowFile:
    """The workflow that `text` describes.

    Raises:
        BadText: if it does not.
    """
    front, body, body_line = split_front(text)
    section = Section(front, WORKFLOW_KEYS, notes, 1)
    lines = body.split("\n")
    starts = _step_headings(lines)
    if not starts:
        raise BadText(
            "has no step; a step is a heading '## step-id', lines such as 'role: executor', "
            "an empty line and the task",
            body_line,
        )
    ends = [*starts[1:], len(lines)]
    place = notes.place
    return WorkflowFile(
        name=named(section, place.path.name.removesuffix(".workflow.md")),
        description=section.text("description"),
        steps=tuple(
            _step(lines[start:end], notes, body_line + start) for start, end in zip(starts, ends, strict=True)
        ),
        max_concurrency=section.whole("max_concurrency", 1, 1024),
        on_failure=section.choice("on_failure", ON_FAILURE),
        notes=tidy("\n".join(lines[: starts[0]])),
        extras=section.extras,
        path=place.path,
        source=place.source,
        trusted=place.trusted,
    )


def _step_headings(lines: list[str]) -> list[int]:
    """Where the steps begin."""
    starts: list[int] = []
    heading: int | None = None
    for at, line in enumerate(lines):
        if line.startswith(_HEADING):
            heading = at
        elif heading is not None and line.strip():
            found = _KEY_LINE.fullmatch(line)
            if found and STEP_KEYS.canonical(found["key"]):
                starts.append(heading)
            heading = None
    return starts


def _step(lines: list[str], notes: Notes, line: int) -> Step:
    ident = lines[0].removeprefix("##").strip()
    if not is_name(ident):
        raise BadText(f"{ident!r} cannot be a step's id: letters, digits, '-' and '_', at most 80", line)
    begin = next(at for at, text in enumerate(lines) if at and text.strip())
    end = next((at for at in range(begin, len(lines)) if not lines[at].strip()), len(lines))
    section = Section(load_mapping("\n".join(lines[begin:end]), line + begin), STEP_KEYS, notes, line)
    prose = tidy("\n".join(lines[end:]))
    written = tidy(section.text("task"))
    if prose and written:
        raise BadText("the task is given twice: as 'task' and as text", section.line("task"))
    if section.has("verify"):
        notes.say(section.line("verify"), "'verify' is accepted, not used yet")
    attention: Attention | None = section.choice("attention", _ATTENTIONS)
    form: SchemaForm | None = section.choice("schema_form", SCHEMA_FORMS)
    return Step(
        id=ident,
        role=section.name("role") or ident,
        task=prose or written,
        depends_on=section.names("depends_on"),
        reads=section.outputs("reads"),
        output=section.output("output"),
        optional=section.flag("optional", default=False),
        attention="skip" if attention is None else attention,
        model=section.maybe("model"),
        skills=section.skills("skills"),
        verify=section.flag("verify", default=False),
        schema=section.schema("schema"),
        schema_form="auto" if form is None else form,
        schema_mode=section.choice("schema_mode", SCHEMA_MODES),
        limits=section.limits("limits"),
        resources=section.resources("resources"),
        extras=section.extras,
        line=line,
    )


def render_workflow(workflow: WorkflowFile) -> str:
    """The workflow as a file, in our own spelling, that reads back as the same workflow."""
    values: dict[str, Json] = {
        "name": workflow.name,
        "description": workflow.description or None,
        "max_concurrency": workflow.max_concurrency,
        "on_failure": workflow.on_failure,
    }
    parts = [f"---\n{dump_given(values, workflow.extras)}---"]
    if workflow.notes:
        parts.append(workflow.notes)
    parts += [_render_step(step) for step in workflow.steps]
    return "\n\n".join(parts) + "\n"


def _render_step(step: Step) -> str:
    schema: Json = (step.schema.file or dict(step.schema.body)) if step.schema else None
    skills: Json = [*step.skills] if step.skills else step.skills if step.skills is False else None
    # A task that would be taken for steps of its own is written as a value.
    quoted = bool(_step_headings(step.task.split("\n")))
    values: dict[str, Json] = {
        "role": step.role,
        "depends_on": [*step.depends_on] or None,
        "reads": [*step.reads] or None,
        "output": step.output,
        "optional": step.optional or None,
        "attention": step.attention if step.attention != "skip" else None,
        "model": step.model,
        "skills": skills,
        "verify": step.verify or None,
        "schema": schema,
        "schema_form": step.schema_form if step.schema_form != "auto" else None,
        "schema_mode": step.schema_mode,
        "limits": limits_values(step.limits) or None,
        "resources": [*step.resources] or None,
        "task": step.task if quoted else None,
    }
    head = f"## {step.id}\n{dump_given(values, step.extras)}".rstrip("\n")
    return head if quoted or not step.task else f"{head}\n\n{step.task}"
