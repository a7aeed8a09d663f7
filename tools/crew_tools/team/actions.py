"""Every action of the tool `team`, as data.

The tool's schema, its help, the chat commands, docs/tools.md and the tests are made from this
table. An action's module holds `PARAMETERS`, a model, and `act`, a coroutine; it is imported when
the action is first used, so nothing heavy may be imported here.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from crew_plugin.errors import InvalidValue

__all__ = ["ACTIONS", "Action", "find_action", "from_words", "nearest_action"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action."""

    name: str
    summary: str
    example: str
    """A call as a model makes it, the tool's name left out."""
    cli: str
    """What an operator types for the same in a terminal."""
    module: str
    words: tuple[str, ...] = ()
    """Which parameters bare words in a chat command stand for; the last one takes the rest."""

    @property
    def chat(self) -> str:
        """What a person types for the same in the chat."""
        return " ".join([",team", self.name, *(word.upper() for word in self.words)])


_ALL: Final = (
    Action(
        name="run",
        summary="Run a team's workflow, or one agent, on a goal. Waits for the results, or with "
        "async=true returns at once.",
        example='action="run", team="review", goal="Find bugs in src/login.py: wrong results, races, leaks"',
        cli='crew run review "find bugs in src/login.py"',
        module="crew_tools.team.run",
        words=("team", "goal"),
    ),
    Action(
        name="parallel",
        summary="Run independent tasks side by side, one agent each; every task has a result of its own.",
        example='action="parallel", tasks=[{"goal": "List the public API of src/a.py"}, '
        '{"goal": "List the public API of src/b.py", "agent": "explorer"}]',
        cli='crew run --agent explorer "list the public API of src/a.py"',
        module="crew_tools.team.parallel",
        words=("tasks",),
    ),
    Action(
        name="plan",
        summary="Show the steps that a run would take. Starts nothing, writes nothing.",
        example='action="plan", team="review"',
        cli="crew workflows review",
        module="crew_tools.team.plan",
        words=("team", "goal"),
    ),
    Action(
        name="status",
        summary="Show where a run stands: what each task does, did, or waits for.",
        example='action="status", run_id="last"',
        cli="crew status last",
        module="crew_tools.team.status",
        words=("run_id",),
    ),
    Action(
        name="health",
        summary="Show how each session of a run is doing: its rating, what it waits for, its calls, "
        "failures, tokens and cost.",
        example='action="health", run_id="last"',
        cli="crew health last",
        module="crew_tools.team.health",
        words=("run_id",),
    ),
    Action(
        name="wait",
        summary="Wait for a run that is under way and answer with its results.",
        example='action="wait", run_id="last", timeout=600',
        cli="crew events last --follow",
        module="crew_tools.team.wait",
        words=("run_id", "timeout"),
    ),
    Action(
        name="cancel",
        summary="Stop a run, or one task of it. What is finished is kept.",
        example='action="cancel", run_id="last", reason="the goal changed"',
        cli="crew cancel last",
        module="crew_tools.team.cancel",
        words=("run_id", "task_id"),
    ),
    Action(
        name="resume",
        summary="Go on with a run whose process is gone (no goal), or with an agent of an ended run: it "
        "remembers its conversation and hands in a new result.",
        example='action="resume", run_id="last", goal="And the same for src/session.py?"',
        cli='crew resume last "and the same for src/session.py?"',
        module="crew_tools.team.resume",
        words=("run_id", "goal"),
    ),
    Action(
        name="steer",
        summary="Tell one agent something while it works, or stop its turn, the agent or its whole tree.",
        example='action="steer", agent_id="last", task_id="explore", message="look at auth.py first"',
        cli='crew steer last explore "look at auth.py first"',
        module="crew_tools.team.steer",
        words=("agent_id", "message"),
    ),
    Action(
        name="retry",
        summary="Try tasks of a run again that failed, need attention or were cancelled. What is finished "
        "stays; what was skipped because of them comes after them.",
        example='action="retry", run_id="last", keys=["explore"], text="The file is src/auth.py"',
        cli="crew retry last explore",
        module="crew_tools.team.retry",
        words=("run_id", "keys"),
    ),
    Action(
        name="deadletters",
        summary="List tasks that were given up although what failed may pass (a provider that was down, a "
        "worker that died); try them again, or let them go.",
        example='action="deadletters", op="requeue", letter="last"',
        cli="crew deadletters requeue last",
        module="crew_tools.team.deadletters",
        words=("op", "letter"),
    ),
    Action(
        name="respond",
        summary="Answer the question that an agent of a run waits for, or list the open questions.",
        example='action="respond", run_id="last", task_id="explore", answer="yes, the public API too"',
        cli='crew respond last explore "yes, the public API too"',
        module="crew_tools.team.respond",
        words=("run_id", "answer"),
    ),
    Action(
        name="resize",
        summary="Have more or fewer sessions of a run open at once, from now on.",
        example='action="resize", run_id="last", width=4',
        cli="crew resize last 4",
        module="crew_tools.team.resize",
        words=("run_id", "width"),
    ),
    Action(
        name="export",
        summary="Write a run into a file inside the project: all that can be read of it.",
        example='action="export", run_id="last"',
        cli="crew export last",
        module="crew_tools.team.export",
        words=("run_id", "file"),
    ),
    Action(
        name="import",
        summary="Read a run from a file that was exported elsewhere, to be looked at; it never goes on here.",
        example='action="import", file="login-review.crew.zip"',
        cli="crew import login-review.crew.zip",
        module="crew_tools.team.importing",
        words=("file",),
    ),
    Action(
        name="list",
        summary="List teams, workflows, agents and skills, what is wrong with any of them, and the "
        "newest runs.",
        example='action="list"',
        cli="crew teams",
        module="crew_tools.team.listing",
        words=("resource",),
    ),
    Action(
        name="get",
        summary="Show one team, workflow, agent or skill in full, or the full result of one task.",
        example='action="get", run_id="last", task_id="explore"',
        cli="crew show last explore",
        module="crew_tools.team.get",
        words=("run_id", "task_id"),
    ),
    Action(
        name="summary",
        summary="Show what every task of a run handed in so far.",
        example='action="summary", run_id="last"',
        cli="crew show last",
        module="crew_tools.team.summary",
        words=("run_id",),
    ),
    Action(
        name="events",
        summary="List what happened in a run, newest last.",
        example='action="events", run_id="last", limit=20',
        cli="crew events last",
        module="crew_tools.team.events",
        words=("run_id", "limit"),
    ),
    Action(
        name="artifacts",
        summary="List the stored bodies of a run, or read one of them piece by piece.",
        example='action="artifacts", run_id="last", artifact="3f2a9c01"',
        cli="crew show last --artifact 3f2a9c01",
        module="crew_tools.team.artifacts",
        words=("run_id", "artifact"),
    ),
    Action(
        name="inbox",
        summary="List the results of background runs that this conversation has not got yet, and until when "
        "they wait for others.",
        example='action="inbox", all=true',
        cli="crew inbox",
        module="crew_tools.team.inbox",
        words=("limit",),
    ),
    Action(
        name="forget",
        summary="Delete an ended run for good: results, transcripts, events. Needs confirm.",
        example='action="forget", run_id="last", confirm=true, intent="it had a password in it"',
        cli="crew forget last",
        module="crew_tools.team.forget",
        words=("run_id",),
    ),
    Action(
        name="prune",
        summary="Delete the ended runs that are old, or beyond the newest ones. Needs confirm.",
        example='action="prune", keep=20, dry_run=true',
        cli="crew prune --keep 20 --dry-run",
        module="crew_tools.team.prune",
    ),
    Action(
        name="cleanup",
        summary="Remove processes, logs and bodies that nothing owns any more. Needs confirm.",
        example='action="cleanup", dry_run=true',
        cli="crew cleanup --dry-run",
        module="crew_tools.team.cleanup",
        words=("run_id",),
    ),
    Action(
        name="mail",
        summary="List what was said in a run or in one task's boxes, settle single messages, or repair what "
        "got stuck.",
        example='action="mail", run_id="last", task_id="explore", box="inbox"',
        cli="crew mail last explore --box inbox",
        module="crew_tools.team.mail",
        words=("run_id", "task_id"),
    ),
    Action(
        name="help",
        summary="Explain the actions, or one of them with its parameters.",
        example='action="help", topic="run"',
        cli="crew --help",
        module="crew_tools.team.help",
        words=("topic",),
    ),
)

ACTIONS: Final[Mapping[str, Action]] = MappingProxyType({action.name: action for action in _ALL})
"""Every action by its name."""


def find_action(written: object) -> Action:
    """The action that was meant. Raises `InvalidValue` with the valid ones."""
    if isinstance(written, str):
        action = ACTIONS.get(written.strip().lower())
        if action is not None:
            return action
    raise InvalidValue("action", written, ACTIONS)


def nearest_action(word: str) -> str | None:
    """The action that this may be a slip for."""
    near = difflib.get_close_matches(word.lower(), ACTIONS, n=1, cutoff=0.6)
    return near[0] if near else None


def from_words(words: Sequence[str], options: Mapping[str, str], texts: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of a chat command such as `,team run review "find bugs" width=4`.

    `texts` are the words as they stand in the line: what takes the rest of it takes it unchanged,
    unless it is one word, whose quotes only hold it together.
    """
    action = find_action(words[0] if words else "list")
    arguments: dict[str, Any] = {"action": action.name}
    rest = list(words[1:])
    names = list(action.words)
    if names[:1] == ["team"] and ("agent" in options or (len(rest) == 1 and action.name == "run")):
        names = names[1:]  # one text is a goal for the default team, and one agent has no team
    for position, name in enumerate(names):
        if not rest:
            break
        if position < len(names) - 1 or len(rest) == 1:
            arguments[name] = rest.pop(0)
            continue
        arguments[name] = ("".join(texts[-len(rest) :]) if texts else " ".join(rest)).strip()
        rest = []
    return {**arguments, **options}
