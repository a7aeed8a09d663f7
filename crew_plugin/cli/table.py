"""Every command of `crew`, as data.

The Typer app, the quick path of the light commands, the reference in docs/cli.md and the tests are
made from this table. A command's function takes its parameters by keyword, under these names, and
`place`; a test compares the two. Nothing heavy may be imported here.
"""

from dataclasses import dataclass
from keyword import iskeyword
from typing import Final

__all__ = ["COMMANDS", "COMMON", "REQUIRED", "Command", "Param", "find_command"]

REQUIRED: Final = "\0required"
"""The default of a parameter that must be given."""

Value = str | int | bool | list[str] | None


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter: positional without `flags`, else an option."""

    name: str
    help: str
    kind: type[str] | type[int] | type[bool] | type[list[str]] = str
    flags: tuple[str, ...] = ()
    default: Value = None
    metavar: str | None = None

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default == REQUIRED


@dataclass(frozen=True, slots=True)
class Command:
    """One command."""

    name: str
    summary: str
    example: str
    module: str
    """Imported when the command runs; holds its function."""
    params: tuple[Param, ...] = ()
    more: str = ""
    """What there is to say beyond the summary."""
    light: bool = False
    """Reads or asks the store only, and must start fast: see `quick`."""

    @property
    def function(self) -> str:
        """The name of its function: its own, but for what is a word of Python."""
        return f"{self.name}_" if iskeyword(self.name) else self.name

    @property
    def all_params(self) -> tuple[Param, ...]:
        """Its own parameters and the common ones."""
        return (*self.params, *COMMON)


COMMON: Final = (
    Param("json", "Print one JSON document instead of text.", bool, ("--json",), False),
    Param(
        "project",
        "The project's folder; else the nearest one upwards with .crew/, else the git top level, "
        "else the current folder.",
        str,
        ("--project",),
        metavar="DIR",
    ),
    Param(
        "state_dir",
        "Where runs are kept instead of .crew/state/ of the project.",
        str,
        ("--state-dir",),
        metavar="DIR",
    ),
    Param("debug", "Show the traceback of an unexpected error.", bool, ("--debug",), False),
)

_RUN = Param("run", "A run id, the beginning or the end of one, or `last`.", default="last", metavar="RUN")
_TASK = Param("task", "A task of the run, by its key.", metavar="TASK")
_QUIET = Param("quiet", "No progress; only the result.", bool, ("--quiet", "-q"), False)
_YES = Param(
    "yes",
    "Do what cannot be undone without being asked; without it a terminal is asked, and nothing is done "
    "where there is none.",
    bool,
    ("--yes", "-y"),
    False,
)
_INTENT = Param(
    "intent",
    "Why, for what has to be confirmed; written into the event. Needed where `safety.intent` says so.",
    str,
    ("--intent",),
    metavar="TEXT",
)
_NAME = Param("name", "Show this one in full.", metavar="NAME")

COMMANDS: Final = (
    Command(
        "run",
        "Run a team, or one agent, on a goal and wait for the results.",
        'crew run review "find bugs in the login code"',
        "crew_plugin.cli.run",
        (
            Param(
                "words",
                "The team and the goal. Without a team: `fast-fix`. `-` reads the goal from standard input.",
                list,
                default=REQUIRED,
                metavar="[TEAM] GOAL",
            ),
            Param("workflow", "Another workflow than the team's own.", str, ("--workflow",), metavar="NAME"),
            Param("agent", "Run this one agent instead of a team.", str, ("--agent",), metavar="NAME"),
            Param("model", "The model of every session.", str, ("--model",), metavar="NAME"),
            Param("width", "How many sessions may be open at once.", int, ("--width",), metavar="N"),
            Param(
                "on_failure",
                "What a failed task does to the others: keep-going or fail-fast, which cancels them.",
                str,
                ("--on-failure",),
                metavar="POLICY",
            ),
            Param(
                "schema",
                "What the data of the final results must look like, over what agents and steps say: JSON "
                "Schema or JSON Type Definition, as a file or as JSON.",
                str,
                ("--schema",),
                metavar="FILE|JSON",
            ),
            Param(
                "schema_mode",
                "What becomes of data that never fits: permissive takes it with a note, strict fails.",
                str,
                ("--schema-mode",),
                metavar="MODE",
            ),
            Param(
                "cwd",
                "The folder that the agents work in. If it lies in another project, that one is used.",
                str,
                ("--cwd",),
                metavar="DIR",
            ),
            Param("dry_run", "Write the prompts, ask no model.", bool, ("--dry-run",), False),
            Param(
                "runtime",
                "How sessions are executed: auto, live-session, child-process or scaffold (a dry run).",
                str,
                ("--runtime",),
                metavar="MODE",
            ),
            Param(
                "detach",
                "Do not wait: a process of its own goes on with the run, also when the terminal is closed.",
                bool,
                ("--detach",),
                False,
            ),
            _QUIET,
        ),
        more=(
            "The run is supervised by this process. Ctrl-C cancels it and keeps what is finished; a "
            "second Ctrl-C stops at once. Progress goes to standard error, results to standard output. "
            "Exit codes: 0 completed, 1 failed, 2 wrong call, 130 cancelled."
        ),
    ),
    Command(
        "runs",
        "List the runs of the project, newest first.",
        "crew runs --limit 5",
        "crew_plugin.cli.look",
        (Param("limit", "At most so many.", int, ("--limit",), 20, metavar="N"),),
        light=True,
    ),
    Command(
        "status",
        "Show where a run stands: its tasks, what they do, what they wait for.",
        "crew status last",
        "crew_plugin.cli.look",
        (_RUN,),
        light=True,
    ),
    Command(
        "health",
        "Show how each session of a run is doing: what it waits for, what failed, what it used.",
        "crew health last --watch",
        "crew_plugin.cli.health",
        (
            _RUN,
            Param("watch", "Go on until the run is over.", bool, ("--watch", "-w"), False),
            Param(
                "stalled_after",
                "Seconds after which a supervisor that renews nothing counts as stalled.",
                int,
                ("--stalled-after",),
                10,
                metavar="N",
            ),
        ),
        more="With --watch, --json prints one JSON object for each change, each on a line of its own.",
        light=True,
    ),
    Command(
        "show",
        "Show the results of a run or task in full, or its transcript or prompt.",
        "crew show last explore --transcript",
        "crew_plugin.cli.look",
        (
            _RUN,
            _TASK,
            Param("result", "The result; this is the default.", bool, ("--result",), False),
            Param("transcript", "Every message of the session.", bool, ("--transcript",), False),
            Param("prompt", "What the session was given.", bool, ("--prompt",), False),
            Param("mail", "What was said to it and what became of that.", bool, ("--mail",), False),
            Param(
                "artifact",
                "A stored body, by the beginning of its hash.",
                str,
                ("--artifact",),
                metavar="HASH",
            ),
        ),
        more="Nothing is shortened.",
        light=True,
    ),
    Command(
        "events",
        "List what happened in a run, or follow it.",
        "crew events last --follow",
        "crew_plugin.cli.look",
        (
            _RUN,
            Param("follow", "Go on until the run is over.", bool, ("--follow", "-f"), False),
            Param("after", "Only events after this sequence number.", int, ("--after",), 0, metavar="SEQ"),
            Param(
                "limit",
                "At most so many, the oldest first; 0 for all.",
                int,
                ("--limit", "-n"),
                0,
                metavar="N",
            ),
        ),
        more="With --json, `next_seq` is what to give to --after for those that come later, and `more` says "
        "whether there are any now. With --follow, --json prints one JSON object for each event, each on a "
        "line of its own. Events that are not kept are told as one `events.left_out` with their number.",
        light=True,
    ),
    Command(
        "inbox",
        "List results of background runs that the chat which asked for them has not got.",
        "crew inbox",
        "crew_plugin.cli.inbox",
        (
            Param("limit", "How many.", int, ("--limit", "-n"), 20, metavar="N"),
            Param("all", "Also those that were delivered.", bool, ("--all",), False),
        ),
        light=True,
    ),
    Command(
        "mail",
        "List what was said in a run, settle single messages, or repair what got stuck.",
        "crew mail last explore --box inbox",
        "crew_plugin.cli.mail",
        (
            _RUN,
            Param("task", "Whose mail: a task's key, `parent` or `operator`.", metavar="TASK"),
            Param(
                "box",
                "Only what is for TASK (inbox) or from it (outbox).",
                str,
                ("--box",),
                metavar="inbox|outbox",
            ),
            Param("message", "Only this message.", str, ("--message",), metavar="ID"),
            Param(
                "ack",
                "This message is settled; nobody is given it any more. `all`: of the inbox of TASK.",
                str,
                ("--ack",),
                metavar="ID|all",
            ),
            Param(
                "replay",
                "Give a message again that was delivered to a session which never read it.",
                str,
                ("--replay",),
                metavar="ID|all",
            ),
            Param(
                "repair",
                "Settle mail that cannot move any more: of ended tasks and lost sessions, and what is late.",
                bool,
                ("--repair",),
                False,
            ),
            Param("dry_run", "With --repair: only say what is wrong.", bool, ("--dry-run",), False),
            Param(
                "force", "Also change mail of a run that a chat session asked for.", bool, ("--force",), False
            ),
        ),
        more=(
            "waiting: written down, nobody has it yet. delivered: a session was given it. read: a model call "
            "had it. expired, given up: nobody is given it any more, with the reason. What is changed is "
            "written into the run's events."
        ),
        light=True,
    ),
    Command(
        "cancel",
        "Cancel a run or one of its tasks, whichever process it runs in.",
        'crew cancel last --reason "wrong branch"',
        "crew_plugin.cli.cancel",
        (
            Param("run", _RUN.help, default=REQUIRED, metavar="RUN"),
            _TASK,
            Param("reason", "Written down with the cancellation.", str, ("--reason",), metavar="TEXT"),
            Param(
                "force",
                "Also a run that a chat session asked for; it has to be confirmed.",
                bool,
                ("--force",),
                False,
            ),
            _YES,
            _INTENT,
        ),
        more="A run whose supervisor died is closed as lost; what was finished stays readable.",
        light=True,
    ),
    Command(
        "steer",
        "Tell one agent something while it works, or stop it, whichever process it runs in.",
        'crew steer last explore "look at auth.py first"',
        "crew_plugin.cli.steer",
        (
            Param(
                "run",
                "A run (an id, the beginning or the end of one, or `last`). Left out, TASK alone is enough "
                "while only one active run has such a task; RUN alone is enough if it has one task.",
                default=REQUIRED,
                metavar="[RUN]",
            ),
            Param("task", "The task's key.", metavar="TASK"),
            Param("text", "What it is told; with --stop, why.", metavar="TEXT"),
            Param(
                "follow_up",
                "Not at its next step but when its turn has ended.",
                bool,
                ("--follow-up",),
                False,
            ),
            Param(
                "stop",
                "Stop instead: its turn (it goes on with TEXT), the agent, or the tree, which is the whole "
                "run with every run that its sessions started.",
                str,
                ("--stop",),
                metavar="turn|agent|tree",
            ),
            Param("force", "Also in a run that a chat session asked for.", bool, ("--force",), False),
            _YES,
            _INTENT,
        ),
        more=(
            "The receipt says what became of it. injected: its next step sees it. queued: a task that has "
            "not begun finds it in its first prompt. woken: a task that had ended is opened again to read "
            "it. missed, failed: not delivered, with the reason. Exit codes: 0 delivered or queued, 1 not, "
            "2 wrong call or a run that is over. `crew show RUN --mail` shows later what became of it."
        ),
        light=True,
    ),
    Command(
        "retry",
        "Try tasks of a run again that failed, need attention or were cancelled.",
        'crew retry last explore --text "the file is src/auth.py"',
        "crew_plugin.cli.retry",
        (
            Param("run", _RUN.help, default=REQUIRED, metavar="RUN"),
            Param(
                "tasks",
                "The keys of the tasks; left out, all that can be retried.",
                list,
                metavar="[TASK]...",
            ),
            Param("model", "Another model for them.", str, ("--model",), metavar="NAME"),
            Param("text", "Added to their task for this attempt.", str, ("--text",), metavar="TEXT"),
            Param("force", "Also in a run that a chat session asked for.", bool, ("--force",), False),
            _QUIET,
        ),
        more=(
            "Results that exist stay, and what was skipped because of these tasks is queued again. A run "
            "that had ended is driven here; the process of one that goes on is asked to retry."
        ),
    ),
    Command(
        "deadletters",
        "List tasks that were given up although their failure may pass; try them again, or let them go.",
        "crew deadletters requeue last",
        "crew_plugin.cli.deadletters",
        (
            Param("what", "list, requeue or drop.", default="list", metavar="list|requeue|drop"),
            Param(
                "which",
                "A dead letter by its id or the end of it, all those of a run, or `all`.",
                metavar="ID|RUN|all",
            ),
            Param("all", "List also those that were requeued or dropped.", bool, ("--all",), False),
            Param(
                "detach",
                "Requeue: do not wait; a process of its own goes on with each run.",
                bool,
                ("--detach",),
                False,
            ),
            Param("force", "Also of a run that a chat session asked for.", bool, ("--force",), False),
            _YES,
            _INTENT,
            _QUIET,
        ),
        more=(
            "requeue is a retry: each task gets a new attempt, and what was skipped because of it comes "
            "after. drop has to be confirmed and deletes nothing: the task stays failed, and `crew retry` "
            "still takes it. Mail that could not be delivered is something else: `crew show RUN --mail`."
        ),
        light=True,
    ),
    Command(
        "respond",
        "Answer the question that an agent waits for; without words, list the open questions.",
        'crew respond last "yes, the public API too"',
        "crew_plugin.cli.respond",
        (
            Param(
                "run",
                "A run; left out where only one question is open in the project.",
                metavar="[RUN]",
            ),
            Param("task", "The task's key; left out where only one task of the run asks.", metavar="[TASK]"),
            Param("answer", "The answer, the last word.", metavar="ANSWER"),
        ),
        more=(
            "The answer is kept even while nobody drives the run. Where a question has choices, the answer "
            "is one of them."
        ),
        light=True,
    ),
    Command(
        "resize",
        "Have more or fewer sessions of a run open at once, from now on.",
        "crew resize last 4",
        "crew_plugin.cli.steer",
        (
            Param("run", "A run; left out for the only active one.", default=REQUIRED, metavar="[RUN]"),
            Param("width", "How many sessions.", metavar="N"),
            Param("force", "Also a run that a chat session asked for.", bool, ("--force",), False),
        ),
        more="Nothing that runs is stopped: with a smaller number no task starts until enough have ended.",
        light=True,
    ),
    Command(
        "resume",
        "Go on with a run whose process is gone, or with an agent of an ended run.",
        "crew resume last",
        "crew_plugin.cli.resume",
        (
            Param("run", _RUN.help, default=REQUIRED, metavar="RUN"),
            Param(
                "words",
                "Go on with one agent instead: what it is to do now, and before it the task's key, where the "
                "run had several.",
                list,
                default=[],
                metavar="[[TASK] TEXT]",
            ),
            Param(
                "decide",
                "What becomes of tasks that are held: TASK=continue, TASK=restart or TASK=fail, with commas "
                "between.",
                str,
                ("--decide",),
                metavar="TASK=WHAT",
            ),
            _QUIET,
        ),
        more="Without TEXT the run goes on where its process left it: what is finished stays, sessions go on "
        "with their conversations, and a call with an effect outside that was cut off waits for --decide. "
        'With TEXT an agent remembers and hands in a new result: crew resume last "and the other file?".',
    ),
    Command(
        "forget",
        "Delete an ended run: its results, transcripts and events, and what only it refers to.",
        'crew forget last --yes --intent "had a password in it"',
        "crew_plugin.cli.upkeep",
        (
            Param("run", _RUN.help, default=REQUIRED, metavar="RUN"),
            Param(
                "force",
                "Also a run that a chat session asked for, and one whose results it has not got.",
                bool,
                ("--force",),
                False,
            ),
            _YES,
            _INTENT,
        ),
        more="What stays is a line that says who deleted it, when and why. It cannot be undone.",
        light=True,
    ),
    Command(
        "prune",
        "Delete the ended runs that are old, or beyond the newest ones.",
        "crew prune --dry-run",
        "crew_plugin.cli.upkeep",
        (
            Param("days", "Those that ended longer ago than so many days.", int, ("--days",), metavar="N"),
            Param("keep", "Those beyond the newest N ended ones.", int, ("--keep",), metavar="N"),
            Param(
                "details",
                "Of those that stay, details older than so many days: what their results do not need.",
                int,
                ("--details",),
                metavar="N",
            ),
            Param("dry_run", "Only list what would be deleted.", bool, ("--dry-run",), False),
            _YES,
            _INTENT,
        ),
        more=(
            "Without numbers `keep.days`, `keep.runs` and `keep.details_days` of the settings count. Runs "
            "that go on, and runs whose results have not reached their chat, stay. Of old runs that stay, "
            "logs, prompts and the like go, results stay; where they were stands when and why they went."
        ),
    ),
    Command(
        "cleanup",
        "Remove what nothing owns any more: processes, logs and bodies that were left behind.",
        "crew cleanup --dry-run",
        "crew_plugin.cli.upkeep",
        (
            Param("run", "Only what is left of this run, which is over.", metavar="[RUN]"),
            Param("force", "Also of a run that a chat session asked for.", bool, ("--force",), False),
            Param("dry_run", "Only list what would be removed.", bool, ("--dry-run",), False),
            _YES,
            _INTENT,
        ),
        more=(
            "Processes whose supervisor is dead, logs of runs that have ended or are forgotten, tracebacks "
            "of commands that failed more than a day ago, and bodies that nothing refers to. What belongs to "
            "a run that goes on is never touched. `crew doctor` shows what was removed last, by whom and why."
        ),
    ),
    Command(
        "export",
        "Write a run into a file: all that can be read of it, to be looked at elsewhere.",
        "crew export last --out login-review.crew.zip",
        "crew_plugin.cli.bundles",
        (
            _RUN,
            Param(
                "out",
                "The file, or a folder for it; else RUN.crew.zip in the current folder.",
                str,
                ("--out", "-o"),
                metavar="FILE",
            ),
            Param("overwrite", "Replace a file that is there.", bool, ("--overwrite",), False),
        ),
        more=(
            "A run that goes on is written as it stands at one moment. The file is a zip of JSON and of the "
            "stored bodies, with goal, prompts, transcripts and results as they are."
        ),
        light=True,
    ),
    Command(
        "import",
        "Read a run from a file that `crew export` wrote.",
        "crew import login-review.crew.zip",
        "crew_plugin.cli.bundles",
        (
            Param("file", "The file.", default=REQUIRED, metavar="FILE"),
            Param("as_new", "Give it an id of its own, whatever is here.", bool, ("--as-new",), False),
        ),
        more=(
            "What is checked: its size, its parts and their hashes, every row and every reference. An "
            "imported run has ended and stays so: it is shown, exported and forgotten like others, and "
            "neither retried nor gone on with."
        ),
    ),
    Command(
        "agents",
        "List the agents of this project, of the user and of the package.",
        "crew agents reviewer",
        "crew_plugin.cli.resources",
        (_NAME,),
    ),
    Command(
        "teams",
        "List the teams.",
        "crew teams review",
        "crew_plugin.cli.resources",
        (_NAME,),
    ),
    Command(
        "workflows",
        "List the workflows.",
        "crew workflows review",
        "crew_plugin.cli.resources",
        (_NAME,),
    ),
    Command(
        "init",
        "Make .crew/ with a commented config.toml and folders for your own agents and teams.",
        "crew init --dry-run",
        "crew_plugin.cli.resources",
        (
            Param("dry_run", "Only say what would be written.", bool, ("--dry-run",), False),
            Param(
                "overwrite",
                "Replace config.toml and .gitignore by fresh ones.",
                bool,
                ("--overwrite",),
                False,
            ),
        ),
        more="Safe to repeat: what exists is left as it is, unless you say --overwrite.",
    ),
    Command(
        "doctor",
        "Check the installation, the project, the models, the tools and the agents.",
        "crew doctor --connect",
        "crew_plugin.cli.doctor",
        (
            Param(
                "connect",
                "Also start the host and ask its MCP servers which tools they have.",
                bool,
                ("--connect",),
                False,
            ),
        ),
        more="Exits with 1 if something cannot work. Keys are never printed.",
    ),
    Command(
        "demo",
        "Let the review team look at a copy of this package's own source.",
        "crew demo",
        "crew_plugin.cli.demo",
        (_QUIET,),
        more=(
            "Uses your model if one is configured, else a scripted stand-in that needs no key. "
            "The copy and its results stay in a temporary folder."
        ),
    ),
)
"""Every command, in the order of the help."""


def find_command(name: str) -> Command | None:
    """The command of this name."""
    return next((command for command in COMMANDS if command.name == name), None)
