"""What a session is told on the way: reminders, warnings and the last call for a result."""

from collections.abc import Sequence
from typing import Final

from crew_plugin.host import Job, JobEnded

__all__ = [
    "broken_off",
    "budget_notice",
    "came_late",
    "held",
    "interrupted",
    "last_call",
    "late_output",
    "relay",
    "reminder",
    "repeating",
    "resumed",
    "silent",
    "slow_tool",
    "taken_up",
    "time_warning",
    "woken",
]

_SHOWN_JOBS: Final = 8
_JOB_TEXT: Final = 2000


def reminder(n: int, of: int, *, wants_data: bool) -> str:
    """Reminder `n` after a turn that handed in nothing; the last one closes all other ways."""
    data = " and `data` that fits the result schema" if wants_data else ""
    if n >= of:
        return (
            f"Last reminder ({n} of {of}): nothing has been handed in yet, and only `submit_result` is "
            f"left to you now. Call it with `summary`{data}, made of what you really have; name what is "
            "unfinished or unchecked. If you have nothing of use, give `error` and say what blocked you. "
            "Text without this call is lost."
        )
    return (
        f"Reminder {n} of {of}: your turn ended without a tool call, so nothing has been handed in; plain "
        "text does not leave this session.\n"
        "- Not finished? Go on with the work now, with your tools. Take this way if in doubt.\n"
        f"- Finished? Call `submit_result` with `summary`{data}. Put in everything the reader needs: "
        "they see nothing of what you wrote before.\n"
        "- Really blocked? Call `submit_result` with `error`: what blocks you and what you tried. This "
        "reminder is no blocker."
    )


def last_call(why: str, *, wants_data: bool) -> str:
    """One way is left, and why."""
    data = " and `data` that fits the result schema" if wants_data else ""
    return (
        f"{why} Only `submit_result` is left to you: call it "
        f"now with `summary`{data} of what you have so far. Say plainly what is finished, what is not, "
        "and what comes next."
    )


def held(jobs: Sequence[Job], seconds: float) -> str:
    """A result that fits came while jobs run in the background."""
    shown = "\n".join(f"- {job.id}: {job.what}" for job in jobs[:_SHOWN_JOBS])
    more = f"\n- and {len(jobs) - _SHOWN_JOBS} more" if len(jobs) > _SHOWN_JOBS else ""
    return (
        f"Your result fits, and is held: these jobs of yours still run.\n{shown}{more}\n"
        "- Stand by: end your turn without a tool call. You are told when they end and hand in again then; "
        f"after {seconds:.0f} s they are ended and this result is taken.\n"
        "- Cancel: end the jobs that you do not need with bash_kill, then end your turn: this result is "
        "taken.\n"
        "- Give them up: call `submit_result` again now. They are ended and that result is taken."
    )


def lost_jobs(jobs: Sequence[Job], *, held: bool) -> str:
    """Jobs in the background were ended with the turn that was stopped."""
    shown = "\n".join(f"- {job.id}: {job.what}" for job in jobs[:_SHOWN_JOBS])
    more = f"\n- and {len(jobs) - _SHOWN_JOBS} more" if len(jobs) > _SHOWN_JOBS else ""
    said = f"These jobs of yours in the background were ended by this:\n{shown}{more}"
    if held:
        said += (
            "\nThe result that was held for them was not taken: hand in again with `submit_result`, "
            "the whole of it."
        )
    return said


def late_output(ended: Sequence[JobEnded], *, fresh: bool) -> str:
    """Jobs ended, and the session has not seen how."""
    parts = [f"{len(ended)} of your jobs in the background ended:"]
    for event in ended[:_SHOWN_JOBS]:
        how = "ended" if event.ok else "failed"
        parts.append(f"## {event.job.id} {how}: {event.job.what}\n{event.text[-_JOB_TEXT:] or '(no output)'}")
    if len(ended) > _SHOWN_JOBS:
        parts.append(f"and {len(ended) - _SHOWN_JOBS} more")
    if fresh:
        parts.append(
            "Your result was made without this, so it was not taken. Look at what it changes, then call "
            "`submit_result` again with the whole result."
        )
    else:
        parts.append("Go on with your task.")
    return "\n".join(parts)


def time_warning(what: str) -> str:
    """Some way before a limit."""
    return (
        f"You have used {what}. Bring the work to a close: finish what is under way, start nothing new, and "
        "hand in your result with `submit_result` in good time. At the limit the session is stopped."
    )


def interrupted(why: str, text: str) -> str:
    """The first words after a turn that somebody stopped."""
    said = f"\n\n{text}" if text.strip() else " Take up your task again from where it stands."
    return (
        f"Your turn was stopped: {why}. What was under way did not come to its end, and processes that "
        f"you had started were ended; look how far they got before you rely on them.{said}"
    )


def came_late() -> str:
    """What starts another turn after a message that came when one had just ended."""
    return "The message above came as your turn ended. Take it into account, then go on or end your turn."


def woken(state: str, mail: str, *, left_out: int) -> str:
    """The first words of a further conversation of a task that has ended."""
    cut = f" {left_out} of your earlier messages are left out above for want of room." if left_out else ""
    return (
        f"Your task has ended ({state}) and what became of it stands; nothing is to be handed in any more. "
        f"You are woken because there is mail for you.{cut}\n\n{mail}\n\n"
        "Answer with `irc` (op `send`) whoever asked something. Look up what you need for the answer; "
        "start no other work. Then end your turn. If you write to nobody, your last words are passed on."
    )


def relay(key: str, text: str, *, failure: str, where: str) -> str:
    """What is passed on to whoever woke a session that did not answer."""
    whole = f"The conversation stands in the transcript of {where}."
    if failure:
        said = f" Its last words:\n{text}" if text.strip() else " It said nothing."
        return f"{key} was woken by your message and could not deal with it: {failure}. {whole}{said}"
    if not text.strip():
        return f"{key} was woken by your message, has read it and ended its turn without a word. {whole}"
    return f"{key} was woken by your message and answers:\n{text}\n{whole}"


def broken_off(text: str) -> str:
    """What had come of an answer that was never finished, for whoever reads what the session left."""
    return f"[an answer that broke off; this much of it had come:]\n{text}"


def budget_notice(requests: int, forced_at: int) -> str:
    """At the soft budget of requests."""
    return (
        f"This task has cost {requests} requests, which is what it was given. Finish what is under way and "
        f"hand in your result with `submit_result`; at {forced_at} requests your turn is stopped and nothing "
        "else is left to you."
    )


def repeating(answers: int, what: str, left: int) -> str:
    """When what a session does brings nothing new."""
    return (
        f"Your last {answers} steps brought nothing new; the latest was {what}. Doing it again will not "
        "help. Take another way to what you need, or hand in with `submit_result` what you have and say what "
        f"is missing. After {left} more such steps only `submit_result` is left to you."
    )


def silent(seconds: float) -> str:
    """After a model call that brought no answer."""
    return (
        f"No answer came from you for {seconds:.0f} s, so the call was given up and made again. Go on from "
        "where you stand."
    )


def slow_tool(name: str, seconds: float, limit: float) -> str:
    """For the moment at which a slow tool has ended."""
    return (
        f"Your call of {name} had taken {seconds:.0f} s when this was written; at {limit:.0f} s a call is "
        "stopped. If you need more of it, ask for less at a time."
    )


def taken_up(*, left_out: int) -> str:
    """What a session is told whose process died in the middle of its work."""
    cut = f" {left_out} of its messages are left out for want of room." if left_out else ""
    return (
        "The process that you worked in died, and you go on in a new one. The conversation above is your "
        f"own, as far as it was written down.{cut} A call without a result may or may not have taken effect: "
        "look before you repeat it. Whatever you had running in the background has ended. Go on with your "
        "task, and hand in your result when it is done."
    )


def resumed(*, left_out: int) -> str:
    """What stands before the new task of an agent that goes on with an earlier conversation."""
    cut = f" {left_out} of its messages are left out for want of room." if left_out else ""
    return (
        "The conversation above is your own, from an earlier task that has ended; what you handed in then "
        f"stands.{cut} Files may have changed since: look again before you rely on what you saw. Below is "
        "your new task, which needs a result of its own."
    )
