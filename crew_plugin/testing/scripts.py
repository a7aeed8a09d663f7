"""Scripts for the model server: they look at the conversation and nothing else.

`worker` does an agent's job: it lists, searches and reads with the tools it is offered, then
submits findings that quote lines it was really shown. `parent` is the model of a chat that asks
for a team. `demo` is both, told apart by the tools in the request.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from crew_plugin.testing.conversation import Conversation, Reply, Script, ToolResult, ToolUse

__all__ = ["SCRIPTS", "demo", "echo", "parent", "submission", "worker"]

_PATH = re.compile(
    r"(?<![\w/.-])((?:[\w.-]+/)*[\w-]+\.(?:py|pyi|toml|md|js|ts|go|rs|java|c|h|cfg|sh))(?![\w/])"
)
_SOURCE = re.compile(r"\.(?:py|js|ts|go|rs|java|c)$")
_NUMBERED = re.compile(r"^\s*(\d+)\t(.*)$")
_DATED = re.compile(r"^---Date: .*---$", re.MULTILINE)
_WANTS_TEAM = re.compile(
    r"^\s*(?:please,?\s+)?(?:have|let|ask|get|use|start|run|send)\s+(?:a|the|your|our)\s+(?:\w+\s+)?(?:team|crew)\b",
    re.IGNORECASE,
)
_TELLING = re.compile(r"\s*+(?!import |from |[#\"'\])}]|[\w.]+,$).{12}")
_FILES_READ = 3
_QUOTES = 4


def echo(conversation: Conversation) -> Reply:
    """Repeat what the user said last."""
    return Reply(text=f"You said: {_said(conversation)}")


def demo(conversation: Conversation) -> Reply:
    """`worker` for a session that can submit a result, `parent` for a chat with a team, else `echo`."""
    if conversation.offered("submit_result"):
        return worker(conversation)
    if conversation.offered("team"):
        return parent(conversation)
    return echo(conversation)


def parent(conversation: Conversation) -> Reply:
    """Call `team` when the user asks for one, then answer with what its workers handed in."""
    said = _said(conversation)
    results = conversation.new_results
    if results:
        return Reply(text="The team has reported. In its own words:\n\n" + _quoted(results[-1].text))
    if _WANTS_TEAM.search(said):
        return Reply(text="I will hand this to a team.", calls=(_team_call(conversation, said),))
    if conversation.find(r"result_id|delivery"):
        return Reply(text="A result came in:\n\n" + _quoted(said))
    return echo(conversation)


def worker(conversation: Conversation) -> Reply:
    """Look around, read what matters, submit what was found with the lines that show it."""
    done = conversation.tool_results
    if conversation.forced or any(result.name == "submit_result" for result in done):
        return Reply(calls=(submission(conversation),))
    if not done and (survey := tuple(_survey(conversation))):
        return Reply(text="First I look at what is there.", calls=survey)
    if not any(result.name == "read" for result in done) and (reads := tuple(_reads(conversation))):
        return Reply(text="These files matter most.", calls=reads)
    return Reply(text="I have seen enough.", calls=(submission(conversation),))


def submission(conversation: Conversation) -> ToolUse:
    """A call of `submit_result` that quotes what the session's tools really showed."""
    findings = tuple(_findings(conversation.tool_results))
    asked = _first_line(conversation.first_user)
    if findings:
        lines = [f"{path}:{number}: `{text}`" for path, number, text in findings]
        summary = (
            f"Task: {asked}\n\nRead {len({f[0] for f in findings})} files. What they say:\n"
            + "\n".join(f"- {line}" for line in lines)
        )
    else:
        lines = [f"Task: {asked}"]
        summary = f"Task: {asked}\n\nNothing had to be read."
    arguments: dict[str, Any] = {"summary": summary}
    data = conversation.tools.get("submit_result", {}).get("properties", {}).get("data", {})
    if data.get("properties"):
        arguments["data"] = _fitting(data, itertools.cycle(lines))
    return ToolUse(name="submit_result", arguments=arguments)


def _said(conversation: Conversation) -> str:
    """What the person typed, without what a chat channel puts before it."""
    return _DATED.split(conversation.last_user)[-1].strip()


def _first_line(text: str) -> str:
    lines = (line.strip("# \t") for line in text.splitlines())
    return next((line for line in lines if line), "")[:200]


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())


def _team_call(conversation: Conversation, said: str) -> ToolUse:
    arguments: dict[str, Any] = {"action": "run", "goal": said}
    if "review" in said.lower():
        arguments["team"] = "review"
    flag = conversation.parameter("team", "run_in_background", "background", "async")
    if flag and "background" in said.lower():
        arguments[flag] = True
    return ToolUse(name="team", arguments=arguments)


def _survey(conversation: Conversation) -> Iterator[ToolUse]:
    if conversation.offered("ls"):
        yield ToolUse(name="ls", arguments={"path": "."})
    if conversation.offered("find"):
        yield ToolUse(name="find", arguments={"pattern": "**/*.py"})
    if conversation.offered("grep"):
        pattern = (
            "password|token|secret|subprocess|eval" if _is_about_security(conversation) else "^(class|def) "
        )
        yield ToolUse(name="grep", arguments={"pattern": pattern})


def _is_about_security(conversation: Conversation) -> bool:
    return "security" in _first_line(conversation.system).lower() + conversation.first_user.lower()[:400]


def _reads(conversation: Conversation) -> Iterator[ToolUse]:
    if not conversation.offered("read"):
        return
    seen = [path for result in conversation.tool_results for path in _PATH.findall(result.text)]
    named = [path for path in _PATH.findall(conversation.first_user) if not seen or path in seen]
    sources = [path for path in seen if _SOURCE.search(path) and not path.startswith("tests/")]
    rest = list(dict.fromkeys(sources or seen))
    start = len(conversation.system) % max(1, len(rest))  # so that two roles read different files
    chosen = dict.fromkeys([*named, *rest[start:], *rest[:start]])
    for path in itertools.islice(chosen, _FILES_READ):
        yield ToolUse(name="read", arguments={"path": path, "limit": 120})


def _findings(results: Iterable[ToolResult]) -> Iterator[tuple[str, int, str]]:
    for result in results:
        if result.name == "read":
            path = str(result.arguments.get("path", ""))
            lines = (match for line in result.text.splitlines() if (match := _NUMBERED.match(line)))
            telling = ((int(line[1]), line[2].strip()) for line in lines if _TELLING.match(line[2]))
            for number, text in itertools.islice(telling, _QUOTES):
                yield path, number, text


def _fitting(schema: Mapping[str, Any], words: Iterator[str]) -> Any:
    """The plainest value that a JSON Schema allows, with findings for its texts."""
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" or "properties" in schema:
        properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
        return {
            name: _fitting(properties.get(name, {}), words) for name in schema.get("required", properties)
        }
    if kind == "array":
        count = max(1, int(schema.get("minItems", 1)))
        return [_fitting(schema.get("items", {}), words) for _ in range(count)]
    plain: dict[Any, Any] = {"boolean": True, "null": None, "integer": schema.get("minimum", 0)}
    plain["number"] = plain["integer"]
    return plain[kind] if kind in plain else next(words)


SCRIPTS: Mapping[str, Script] = {"demo": demo, "echo": echo, "parent": parent, "worker": worker}
