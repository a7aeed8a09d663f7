"""The event vocabulary: closed, and data. Nothing else may be appended to a run's events."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

__all__ = ["EVENT_TYPES", "EventType", "Writer"]

Writer = Literal["supervisor", "session", "caller", "host"]
"""Who writes an event: the run's supervisor, one of its sessions, whoever called a tool or
command, or the host adapter."""


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of event: its name, what it says, who writes it, and the keys of its data."""

    name: str
    doc: str
    writer: Writer
    fields: tuple[str, ...] = ()
    chatty: bool = False
    """It says how things go. What came of it stands elsewhere, and a run keeps only so many of them."""


_ALL = (
    EventType(
        "run.created", "The run and its tasks were written down.", "caller", ("team", "workflow", "tasks")
    ),
    EventType("run.claimed", "A supervisor took the lease.", "supervisor", ("pid", "epoch", "takeover")),
    EventType(
        "run.supervisor_lost",
        "The supervisor of the run is gone: its process died, or its lease stood still.",
        "host",
        ("pid", "how"),
    ),
    EventType(
        "run.supervisor_ended",
        "The guardian of a detached supervisor saw how that ended before the run was over.",
        "host",
        ("pid", "how", "log"),
    ),
    EventType("run.released", "The supervisor gave the run up without ending it.", "supervisor", ()),
    EventType("run.started", "The first task may start.", "supervisor", ("runtime", "width")),
    EventType("run.blocked", "The run waits for a decision.", "supervisor", ()),
    EventType("run.unblocked", "The decision came.", "supervisor", ()),
    EventType("run.completed", "Every required task has an accepted result.", "supervisor", ("tasks",)),
    EventType("run.failed", "The run ended without all required results.", "supervisor", ("tasks",)),
    EventType("run.cancelled", "The run was stopped.", "supervisor", ("tasks",)),
    EventType(
        "run.reopened", "Somebody wants tasks of the ended run tried again.", "caller", ("tasks", "epoch")
    ),
    EventType(
        "run.imported",
        "The ended run came from a bundle that was exported elsewhere; it is only read.",
        "caller",
        (
            *("source", "digest", "original_id", "state", "made_by"),
            *("exported_at", "imported_at", "imported_by"),
        ),
    ),
    EventType(
        "runtime.resolved",
        "How sessions will be executed, and why.",
        "supervisor",
        ("kind", "requested", "reason", "fallback", "looked_at"),
    ),
    EventType(
        "limits.resolved",
        "How many sessions may be open at once, and where each number comes from.",
        "supervisor",
        ("width", "limits", "decisions"),
    ),
    EventType(
        "task.held_back",
        "The task could start but for resources that others use.",
        "supervisor",
        ("key", "resources"),
    ),
    EventType(
        "task.held",
        "What a lost session did last must be looked at before the task goes on.",
        "supervisor",
        ("key", "reason"),
    ),
    EventType(
        "task.decided", "Somebody decided what becomes of a held task.", "supervisor", ("key", "decision")
    ),
    EventType("task.started", "An attempt of the task began.", "supervisor", ("key", "number")),
    EventType(
        "task.waiting",
        "The task's session asked a question.",
        "session",
        ("question", "question_id", "choices", "until"),
    ),
    EventType(
        "task.resumed",
        "The session goes on: its question was answered, ran out of time, or was withdrawn.",
        "session",
        ("question_id", "outcome"),
    ),
    EventType(
        "question.told",
        "A question of a background run was put to the conversation that asked for the run.",
        "host",
        ("question_id",),
    ),
    EventType("question.answered", "Somebody answered a question.", "caller", ("question_id", "answer")),
    EventType(
        "question.withdrawn",
        "A session ended before its question was answered.",
        "supervisor",
        ("question_id",),
    ),
    EventType("task.retry_due", "A new attempt will start after a pause.", "supervisor", ("at", "number")),
    EventType(
        "task.requeued",
        "Somebody wants the task tried again, or one that it was skipped for.",
        "caller",
        ("key", "was", "dead_letter_id"),
    ),
    EventType(
        "task.given_up",
        "The task failed for something that may pass and is not tried again by itself: a dead letter.",
        "supervisor",
        ("key", "dead_letter_id", "reason", "attempts"),
    ),
    EventType(
        "dead_letter.dropped",
        "Somebody let a dead letter go; the task stays as it ended.",
        "caller",
        ("key", "dead_letter_id", "reason"),
    ),
    EventType(
        "task.completed",
        "The task's result was accepted.",
        "supervisor",
        ("key", "seconds", "tokens", "result_id"),
    ),
    EventType(
        "task.needs_attention",
        "The task ended without a result but left a text.",
        "supervisor",
        ("key", "seconds", "tokens"),
    ),
    EventType("task.failed", "The task ended with a cause.", "supervisor", ("key", "seconds", "tokens")),
    EventType("task.cancelled", "The task was stopped.", "supervisor", ("key", "seconds", "tokens")),
    EventType("task.skipped", "The task never started.", "supervisor", ("key",)),
    EventType(
        "attempt.ended",
        "The attempt ended otherwise than its task: another one is due, or the task ended differently.",
        "supervisor",
        ("state",),
    ),
    EventType(
        "attempt.triaged",
        "A supervisor took the run over and looked at what the attempt had done.",
        "supervisor",
        ("verdict", "entries", "tool", "arguments"),
    ),
    EventType(
        "attempt.resumed",
        "The attempt goes on with its conversation under a new supervisor.",
        "supervisor",
        ("key", "number", "steps"),
    ),
    EventType("attempt.lost", "The process that worked on the attempt died.", "supervisor", ()),
    EventType("session.opened", "A session began.", "session", ("kind", "agent", "model", "tools")),
    EventType(
        "session.model_answered",
        "The model answered.",
        "session",
        ("step", "usage", "tool_calls"),
        chatty=True,
    ),
    EventType("session.tool_started", "A tool call began.", "session", ("tool", "target"), chatty=True),
    EventType(
        "session.tool_progress",
        "A tool that is still at work says how far it is.",
        "session",
        ("tool", "text"),
        chatty=True,
    ),
    EventType(
        "session.mcp_server",
        "An MCP server was lost, connected again, given up, or has other tools.",
        "session",
        ("server", "state", "text"),
    ),
    EventType("session.tool_ended", "A tool call ended.", "session", ("tool", "ok", "ms"), chatty=True),
    EventType("session.reminded", "The session was asked for its result.", "session", ("n", "of")),
    EventType(
        "session.retrying",
        "A model call failed and will be made again.",
        "session",
        ("error", "try", "of", "delay"),
        chatty=True,
    ),
    EventType(
        "session.provider_wait",
        "A model call waits for its turn at the provider.",
        "session",
        ("reason", "ahead"),
        chatty=True,
    ),
    EventType(
        "session.limit_reached", "The session ran into one of its limits.", "session", ("limit", "value")
    ),
    EventType(
        "session.compacted",
        "The conversation was too long for its model and was shortened; the whole is kept.",
        "session",
        ("because", "n", "before", "after", "left_out", "artifact"),
    ),
    EventType(
        "session.note", "The session says something about its progress.", "session", ("text",), chatty=True
    ),
    EventType(
        "session.stalled",
        "The session stands still: it waits, or what it does brings nothing new.",
        "session",
        ("rung", "what", "value", "limit"),
    ),
    EventType(
        "session.stopping",
        "The session, or its turn, is about to be stopped.",
        "session",
        ("scope",),
    ),
    EventType(
        "session.left_running",
        "Something of the session did not let itself be ended.",
        "session",
        ("what",),
    ),
    EventType(
        "session.reopened",
        "The session went on in a new session of the engine, with what was said before.",
        "session",
        ("entries",),
    ),
    EventType(
        "session.woken",
        "An ended session was opened again to read its mail.",
        "session",
        ("by", "mail", "entries"),
    ),
    EventType(
        "session.rested",
        "A session that was woken has ended its further conversation.",
        "session",
        ("outcome", "steps", "usage"),
    ),
    EventType("session.job_ended", "A job in the background ended.", "session", ("job", "what", "ok")),
    EventType(
        "session.waiting", "The session waits for its jobs in the background.", "session", ("for", "seconds")
    ),
    EventType(
        "session.plugin_acted",
        "Another plugin of the host failed inside the session, or had a say in what it does.",
        "session",
        ("plugin", "hook", "outcome", "tool", "text"),
        chatty=True,
    ),
    EventType("session.closed", "The session ended.", "session", ("steps", "usage")),
    EventType("result.rejected", "A submitted result did not pass.", "session", ("path", "error", "n")),
    EventType(
        "result.section",
        "A part of a result was kept; it is no result.",
        "session",
        ("label", "artifact", "size"),
    ),
    EventType(
        "result.held",
        "A result that fits waits for jobs in the background, is to be made anew after their output, or is "
        "taken because they were given up.",
        "session",
        ("reason", "jobs"),
    ),
    EventType("result.accepted", "A submitted result was accepted.", "session", ("result_id", "flags")),
    EventType(
        "message.sent",
        "A message was accepted for delivery.",
        "session",
        ("message_id", "to", "kind", "outcome"),
    ),
    EventType("message.delivered", "A message reached its session.", "session", ("message_id",)),
    EventType(
        "message.returned",
        "The session that a message was given to was lost before it kept it; the next one takes it.",
        "supervisor",
        ("message_id",),
    ),
    EventType(
        "message.acknowledged",
        "Somebody says that a message is settled; nobody is given it any more.",
        "caller",
        ("message_id",),
    ),
    EventType("mail.repaired", "Mail that could not move any more was settled.", "caller", ("findings",)),
    EventType("message.failed", "A message could not be delivered.", "session", ("message_id", "reason")),
    EventType(
        "control.requested",
        "Somebody asked the supervisor for something.",
        "caller",
        ("verb", "control_id", "force", "message_id"),
    ),
    EventType(
        "control.applied",
        "The supervisor did it.",
        "supervisor",
        ("verb", "control_id", "message_id", "outcome", "reason"),
    ),
    EventType(
        "control.refused",
        "The supervisor did not do it.",
        "supervisor",
        ("verb", "control_id", "message_id", "outcome", "reason"),
    ),
    EventType(
        "delivery.sent",
        "A finished result was handed to the parent, in the message that names the parcel.",
        "host",
        ("delivery_id", "results", "parcel"),
    ),
    EventType(
        "delivery.held",
        "Results wait for others of their group, at the latest until a moment (seconds of the epoch).",
        "host",
        ("until", "results", "open"),
    ),
    EventType(
        "delivery.acknowledged", "The result stands on the parent's saved record.", "host", ("delivery_id",)
    ),
    EventType("delivery.expired", "The result was too old to be handed over.", "host", ("delivery_id",)),
    EventType(
        "notice.given",
        "A person is told outside of any conversation, as the settings say, of what this is about.",
        "host",
        ("about", "how"),
    ),
    EventType(
        "parent.compaction_put_off",
        "The parent's history was to be cut and is not, as long as the run is active.",
        "host",
        ("how", "session"),
    ),
    EventType(
        "parent.compacted",
        "The parent's history was cut; what it must know of the run is repeated to it from now on.",
        "host",
        ("how", "session", "full"),
    ),
    EventType(
        "hook.executed",
        "A hook ran.",
        "supervisor",
        ("hook", "plugin", "blocking", "outcome", "reason", "changed", "diagnostic", "ms"),
        chatty=True,
    ),
    EventType("artifact.stored", "A body was stored.", "supervisor", ("name", "sha256", "size")),
    EventType(
        "artifact.removed",
        "A body was deleted because of how long or how many are kept; that it was there stays known.",
        "caller",
        ("name", "sha256", "size", "because"),
    ),
    EventType(
        "events.left_out",
        "Events with numbers from the first to the last are not kept; it has the number of the last.",
        "supervisor",
        ("events", "first_seq", "last_seq", "because"),
    ),
)

EVENT_TYPES: Final = MappingProxyType({event.name: event for event in _ALL})
"""Every event type by its name."""

CHATTY: Final = tuple(event.name for event in _ALL if event.chatty)
"""The names of those that a run keeps only so many of."""
