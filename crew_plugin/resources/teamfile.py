"""Teams: frontmatter, then one line for each role among text for people.

- role-name: agent=x model=y skills=a,b max_concurrency=2 what the role is for
"""

import json
import re
from typing import Final

from crew_plugin.resources.agentfile import named
from crew_plugin.resources.keys import NAME, ON_FAILURE, Keys, Notes, Section, split_front, tidy
from crew_plugin.resources.models import Role, TeamFile
from crew_plugin.resources.yamltext import BadText, Json, Mapped, dump_given

__all__ = ["TEAM_KEYS", "parse_team", "render_team"]

_ROUTING: Final = frozenset({"triggers", "use_when", "avoid_when", "cost", "category"})

TEAM_KEYS: Final = Keys(
    used=frozenset({"name", "description", "default_workflow", "max_concurrency", "on_failure"}),
    waiting=frozenset({"workspace_mode", "source", "observability"}) | _ROUTING,
    aliases={"workflow": "default_workflow", "trigger": "triggers"},
)

_ROLE_KEYS: Final = Keys(
    used=frozenset({"agent", "model", "skills", "max_concurrency"}),
    waiting=frozenset(),
    aliases={"skill": "skills"},
)

_ROLE_LINE: Final = re.compile(rf"-[ \t]+(?P<name>{NAME.pattern}):(?:[ \t]+(?P<rest>.*))?")
_OPTION: Final = re.compile(r'(?P<key>[A-Za-z_]+)=(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]*)(?:[ \t]+|$)')
_LIKE_OPTION: Final = re.compile(r"[A-Za-z_]+=")
_END_OF_OPTIONS: Final = "--"


def parse_team(text: str, notes: Notes) -> TeamFile:
    """The team that `text` describes.

    Raises:
        BadText: if it does not.
    """
    front, body, body_line = split_front(text)
    section = Section(front, TEAM_KEYS, notes, 1)
    roles: dict[str, Role] = {}
    rest: list[str] = []
    for number, line in enumerate(body.split("\n"), start=body_line):
        found = _ROLE_LINE.fullmatch(line.rstrip())
        if found is None:
            if re.match(r"\s*[-*]\s.*\bagent=", line):
                raise BadText(
                    "a role is written '- name: agent=...'; its name has letters, digits, '-' and '_'", number
                )
            rest.append(line)
            continue
        role = _role(found["name"], found["rest"] or "", notes, number)
        if role.name in roles:
            raise BadText(f"the role {role.name!r} is given twice", number)
        roles[role.name] = role
    if not roles:
        raise BadText("has no role; a role is a line '- name: agent=... what it is for'", body_line)
    place = notes.place
    return TeamFile(
        name=named(section, place.path.name.removesuffix(".team.md")),
        description=section.text("description"),
        roles=roles,
        default_workflow=section.name("default_workflow"),
        max_concurrency=section.whole("max_concurrency", 1, 1024),
        on_failure=section.choice("on_failure", ON_FAILURE),
        notes=tidy("\n".join(rest)),
        extras=section.extras,
        path=place.path,
        source=place.source,
        trusted=place.trusted,
    )


def _role(name: str, rest: str, notes: Notes, line: int) -> Role:
    values, description = _options(rest, line)
    section = Section(Mapped(values=values, lines=dict.fromkeys(values, line)), _ROLE_KEYS, notes, line)
    return Role(
        name=name,
        agent=section.name("agent") or name,
        description=description,
        model=section.maybe("model"),
        skills=section.skills("skills"),
        max_concurrency=section.whole("max_concurrency", 1, 1024),
        line=line,
    )


def _options(text: str, line: int) -> tuple[dict[str, Json], str]:
    """The `key=value` words that `text` begins with, and what comes after them."""
    values: dict[str, Json] = {}
    text = text.strip()
    while found := _OPTION.match(text):
        key = _ROLE_KEYS.canonical(found["key"])
        if key is None:
            known = ", ".join(sorted(_ROLE_KEYS.used))
            raise BadText(
                f"a role has no {found['key']!r}; it has {known} (write '--' before a description "
                "that begins like this)",
                line,
            )
        if key in values:
            raise BadText(f"{key!r} is given twice", line)
        values[key] = _value(key, found["value"], line)
        text = text[found.end() :]
    if text == _END_OF_OPTIONS or text.startswith((_END_OF_OPTIONS + " ", _END_OF_OPTIONS + "\t")):
        return values, text.removeprefix(_END_OF_OPTIONS).strip()
    if _LIKE_OPTION.match(text):
        raise BadText(f"{text.split()[0]!r} is not a key with a value", line)
    return values, text


def _value(key: str, written: str, line: int) -> Json:
    if written.startswith('"'):
        try:
            text = json.loads(written)
        except ValueError:
            raise BadText(f"{key!r}: the quoted value {written[:40]} cannot be read", line) from None
        return str(text)
    if key == "max_concurrency":
        return int(written) if re.fullmatch("[0-9]{1,9}", written) else written
    return False if written == "false" else written


def render_team(team: TeamFile) -> str:
    """The team as a file, in our own spelling, that reads back as the same team."""
    values: dict[str, Json] = {
        "name": team.name,
        "description": team.description or None,
        "default_workflow": team.default_workflow,
        "max_concurrency": team.max_concurrency,
        "on_failure": team.on_failure,
    }
    notes = f"{team.notes}\n\n" if team.notes else ""
    roles = "\n".join(_role_line(role) for role in team.roles.values())
    return f"---\n{dump_given(values, team.extras)}---\n\n{notes}{roles}\n"


def _role_line(role: Role) -> str:
    words = [f"- {role.name}: agent={role.agent}"]
    if role.model is not None:
        plain = re.fullmatch(r'[^\s"]+', role.model) and role.model != "false"
        words.append(f"model={role.model if plain else json.dumps(role.model)}")
    if role.skills is False:
        words.append("skills=false")
    elif role.skills is not None:
        words.append("skills=" + (",".join(role.skills) or '""'))
    if role.max_concurrency is not None:
        words.append(f"max_concurrency={role.max_concurrency}")
    if role.description:
        begins = role.description.split(None, 1)[0]
        if begins == _END_OF_OPTIONS or _LIKE_OPTION.match(begins):
            words.append(_END_OF_OPTIONS)
        words.append(role.description)
    return " ".join(words)
