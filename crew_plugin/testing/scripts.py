"""Scripts for the model server: they look at the conversation and nothing else.

`worker` does an agent's job: it lists, searches and reads with the tools it is offered, then
submits findings that quote lines it was really shown. `parent` is the model of a chat that asks
for a team. `demo` is both, told apart by the tools in the request.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

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
_SCHEMA = re.compile(r"^# Result schema$.*?^(\{.*?^\})$", re.MULTILINE | re.DOTALL)
_GOAL = re.compile(r"^<goal-(\w+)[^>]*>\n(.*?)\n</goal-\1>$", re.MULTILINE | re.DOTALL)
_TASK = re.compile(r"^# Your task$\s*^(.+)$", re.MULTILINE)
_STOPS_AT = (
    # What a task looks for, by words in it; the first that fits.
    (
        re.compile(r"abuse|security", re.IGNORECASE),
        re.compile(r"open\(|subprocess|path|token|secret|unlink|replace\(|mode", re.IGNORECASE),
    ),
    (
        re.compile(r"defect|finding|review of", re.IGNORECASE),
        re.compile(r"except|raise|return|finally|if not|while|commit|close", re.IGNORECASE),
    ),
    (re.compile(""), re.compile(r"^(?:async )?(?:def|class) |password", re.IGNORECASE)),
)
_FILES_READ = 3
_QUOTES = 3


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
    quotes = tuple(_quotes(conversation))
    asked = _asked(conversation)
    if quotes:
        files = len({quote.path for quote in quotes})
        lines = "\n".join(f"- {quote}" for quote in quotes)
        summary = f"{asked}\n\nI read {files} file{'s' * (files > 1)}. What they say:\n{lines}"
    else:
        summary = f"{asked}\n\nNothing had to be read."
    arguments: dict[str, Any] = {"summary": summary}
    schema = _schema(conversation)
    if schema:
        arguments["data"] = _fitting(schema, itertools.cycle(quotes or (_Quote("-", 1, asked),)))
    return ToolUse(name="submit_result", arguments=arguments)


@dataclass(frozen=True, slots=True)
class _Quote:
    """A line that a tool showed."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: `{self.text}`"


def _schema(conversation: Conversation) -> Mapping[str, Any]:
    """The schema of the result's data: in the tool that is offered, or else in the task."""
    data = conversation.tools.get("submit_result", {}).get("properties", {}).get("data", {})
    if data.get("properties"):
        return cast("Mapping[str, Any]", data)
    written = next((match for text in conversation.user_texts if (match := _SCHEMA.search(text))), None)
    return cast("Mapping[str, Any]", json.loads(written[1])) if written else {}


def _asked(conversation: Conversation) -> str:
    task = _TASK.search(conversation.first_user)
    return task[1] if task else f"Task: {_first_line(conversation.first_user)}"


def _said(conversation: Conversation) -> str:
    """What the person typed, without what a chat channel puts before it."""
    return _DATED.split(conversation.last_user)[-1].strip()


def _first_line(text: str) -> str:
    lines = (line.strip("# \t") for line in text.splitlines())
    return next((line for line in lines if line), "")[:200]


def _quoted(text: str) -> str:
    # Two blanks at the end keep the lines apart where the answer is shown as Markdown.
    return "\n".join(f"> {line}  " for line in text.splitlines())


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
    return bool(_STOPS_AT[0][0].search(_first_line(conversation.system) + _asked(conversation)))


def _reads(conversation: Conversation) -> Iterator[ToolUse]:
    if not conversation.offered("read"):
        return
    seen = [path for result in conversation.tool_results for path in _PATH.findall(result.text)]
    goal = _GOAL.search(conversation.system)
    asked = (goal[2] if goal else "") + "\n" + conversation.first_user
    named = [path for path in _PATH.findall(asked) if not seen or path in seen]
    sources = [path for path in seen if _SOURCE.search(path) and not path.startswith("tests/")]
    rest = list(dict.fromkeys(sources or seen))
    start = len(conversation.system) % max(1, len(rest))  # so that two roles read different files
    chosen = dict.fromkeys([*named, *rest[start:], *rest[:start]])
    for path in itertools.islice(chosen, _FILES_READ):
        yield ToolUse(name="read", arguments={"path": path, "limit": 120})


def _quotes(conversation: Conversation) -> Iterator[_Quote]:
    """The best lines of what was read, those of different files next to each other."""
    asked = _asked(conversation)
    stops_at = next(pattern for words, pattern in _STOPS_AT if words.search(asked))
    read = [_best(result, stops_at) for result in conversation.tool_results if result.name == "read"]
    for row in itertools.zip_longest(*read):
        yield from (quote for quote in row if quote is not None)


def _best(result: ToolResult, stops_at: re.Pattern[str]) -> list[_Quote]:
    path = str(result.arguments.get("path", ""))
    matches = (match for line in result.text.splitlines() if (match := _NUMBERED.match(line)))
    quotes = [_Quote(path, int(match[1]), match[2].strip()) for match in matches]
    long = [quote for quote in quotes if len(quote.text) > 12]
    return ([quote for quote in long if stops_at.search(quote.text)] or long)[:_QUOTES]


def _fitting(
    schema: Mapping[str, Any], quotes: Iterator[_Quote], name: str = "", of: _Quote | None = None
) -> Any:
    """The plainest value that a JSON Schema allows, with lines that were read for its texts."""
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    allowed: Any = schema.get("type")
    kind = str(cast("Sequence[object]", allowed)[0] if isinstance(allowed, list) else allowed)
    if kind == "object" or "properties" in schema:
        properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
        quote = next(quotes)
        return {
            key: _fitting(properties.get(key, {}), quotes, key, quote)
            for key in schema.get("required", properties)
        }
    if kind == "array":
        count = max(2, int(schema.get("minItems", 1)))
        return [_fitting(schema.get("items", {}), quotes) for _ in range(count)]
    if kind in ("integer", "number"):
        return of.line if of and name == "line" else schema.get("minimum", 0)
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    quote = of or next(quotes)
    return {"path": quote.path, "evidence": f"{quote.path}:{quote.line}"}.get(name, str(quote))


SCRIPTS: Mapping[str, Script] = {"demo": demo, "echo": echo, "parent": parent, "worker": worker}
