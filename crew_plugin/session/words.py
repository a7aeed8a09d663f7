"""What a session is told on the way: reminders, warnings and the last call for a result."""

__all__ = ["interrupted", "last_call", "relay", "reminder", "time_warning", "woken"]


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


def last_call(limit: int, *, wants_data: bool) -> str:
    """At the limit of model calls: one way is left."""
    data = " and `data` that fits the result schema" if wants_data else ""
    return (
        f"You have used all {limit} model calls of this task. Only `submit_result` is left to you: call it "
        f"now with `summary`{data} of what you have so far. Say plainly what is finished, what is not, "
        "and what comes next."
    )


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
