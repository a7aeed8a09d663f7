"""Agents and skills: frontmatter, and a body that goes into prompts as it is."""

from typing import Final

from crew_plugin.models.spec import SchemaForm
from crew_plugin.resources.keys import (
    SCHEMA_FORMS,
    SCHEMA_MODES,
    Keys,
    Notes,
    Section,
    is_name,
    split_front,
    tidy,
)
from crew_plugin.resources.models import AgentFile, LimitsPart, SkillFile
from crew_plugin.resources.servers import parse_servers, servers_values
from crew_plugin.resources.yamltext import BadText, Json, dump_given

__all__ = [
    "AGENT_KEYS",
    "SKILL_KEYS",
    "limits_values",
    "named",
    "parse_agent",
    "parse_skill",
    "render_agent",
    "render_skill",
]

AGENT_KEYS: Final = Keys(
    used=frozenset(
        {
            "name",
            "description",
            "model",
            "tools",
            "deny_tools",
            "mcp_servers",
            "skills",
            "schema",
            "schema_form",
            "schema_mode",
            "project_context",
            "system_prompt_mode",
            "limits",
            "disabled",
            "enabled",
        }
    ),
    waiting=frozenset(
        {
            "avoid_when",
            "category",
            "context_mode",
            "cost",
            "default_tools",
            "extensions",
            "fallback_models",
            "inherit_skills",
            "load_mode",
            "max_turns",
            "memory",
            "scratchpad",
            "thinking",
            "triggers",
            "use_when",
        }
    ),
    aliases={"inherit_project_context": "project_context", "skill": "skills", "trigger": "triggers"},
)

SKILL_KEYS: Final = Keys(
    used=frozenset({"name", "description"}),
    waiting=frozenset({"allowed_tools"}),
    plain=frozenset({"license", "compatibility", "metadata", "version"}),
)


def named(section: Section, stem: str) -> str:
    """The resource's name: its `name`, else what its file is called.

    Raises:
        BadText: if neither can be a name.
    """
    name = section.name("name")
    if name is not None:
        return name
    if not is_name(stem):
        raise BadText(f"{stem!r} cannot be a name: letters, digits, '-' and '_', at most 80", 0)
    return stem


def parse_agent(text: str, notes: Notes) -> AgentFile:
    """The agent that `text` describes.

    Raises:
        BadText: if it does not.
    """
    front, body, body_line = split_front(text)
    section = Section(front, AGENT_KEYS, notes, 1)
    prompt = tidy(body)
    if not prompt:
        raise BadText("has no text after the frontmatter; that text is the agent's prompt", body_line)
    place = notes.place
    form: SchemaForm | None = section.choice("schema_form", SCHEMA_FORMS)
    return AgentFile(
        name=named(section, place.path.stem),
        description=section.text("description"),
        prompt=prompt,
        model=section.maybe("model"),
        tools=section.tools("tools"),
        deny_tools=section.tools("deny_tools"),
        mcp_servers=parse_servers(section, notes),
        skills=section.names("skills"),
        schema=section.schema("schema"),
        schema_form="auto" if form is None else form,
        schema_mode=section.choice("schema_mode", SCHEMA_MODES),
        project_context=section.flag("project_context", default=False),
        append_prompt=section.choice("system_prompt_mode", ("replace", "append")) == "append",
        limits=section.limits("limits"),
        disabled=_disabled(section),
        extras=section.extras,
        path=place.path,
        source=place.source,
        trusted=place.trusted,
    )


def _disabled(section: Section) -> bool:
    if section.has("disabled") and section.has("enabled"):
        raise BadText("give 'disabled' or 'enabled', not both", section.line("enabled"))
    return section.flag("disabled", default=False) or not section.flag("enabled", default=True)


def limits_values(limits: LimitsPart) -> dict[str, Json]:
    """The limits that are set, as they are written."""
    values: dict[str, Json] = {
        "steps": limits.steps,
        "requests": limits.requests,
        "stuck_steps": limits.stuck_steps,
        "idle_seconds": limits.idle_seconds,
        "tool_seconds": limits.tool_seconds,
        "turn_seconds": limits.turn_seconds,
        "wall_seconds": limits.wall_seconds,
        "model_retries": limits.model_retries,
        "attempts": limits.attempts,
    }
    return {key: value for key, value in values.items() if value is not None}


def render_agent(agent: AgentFile) -> str:
    """The agent as a file, in our own spelling, that reads back as the same agent."""
    schema: Json = (agent.schema.file or dict(agent.schema.body)) if agent.schema else None
    values: dict[str, Json] = {
        "name": agent.name,
        "description": agent.description or None,
        "model": agent.model,
        "tools": [*agent.tools] or None,
        "deny_tools": [*agent.deny_tools] or None,
        "mcp_servers": servers_values(agent.mcp_servers) or None,
        "skills": [*agent.skills] or None,
        "schema": schema,
        "schema_form": agent.schema_form if agent.schema_form != "auto" else None,
        "schema_mode": agent.schema_mode,
        "project_context": agent.project_context or None,
        "system_prompt_mode": "append" if agent.append_prompt else None,
        "limits": limits_values(agent.limits) or None,
        "disabled": agent.disabled or None,
    }
    return f"---\n{dump_given(values, agent.extras)}---\n\n{agent.prompt}\n"


def parse_skill(text: str, notes: Notes) -> SkillFile:
    """The skill that `text` describes.

    Raises:
        BadText: if it does not.
    """
    front, body, body_line = split_front(text)
    section = Section(front, SKILL_KEYS, notes, 1)
    content = tidy(body)
    if not content:
        raise BadText("has no text after the frontmatter", body_line)
    place = notes.place
    return SkillFile(
        name=named(section, place.path.parent.name),
        description=section.text("description"),
        body=content,
        extras=section.extras,
        path=place.path,
        source=place.source,
        trusted=place.trusted,
    )


def render_skill(skill: SkillFile) -> str:
    """The skill as a file that reads back as the same skill."""
    values: dict[str, Json] = {"name": skill.name, "description": skill.description or None}
    return f"---\n{dump_given(values, skill.extras)}---\n\n{skill.body}\n"
