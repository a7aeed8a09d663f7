"""What is kept of a conversation that grew too long."""

import json

from hypothesis import given
from hypothesis import strategies as st

from crew_plugin.models.records import TranscriptEntry
from crew_plugin.session.compact import chars_per_token, cut, document, note, room_for, touched_files


def _user(text: str) -> TranscriptEntry:
    return TranscriptEntry(seq=0, role="user", content=text)


def _says(text: str, *calls: tuple[str, str, str]) -> TranscriptEntry:
    made = [{"id": ident, "name": name, "arguments": arguments} for ident, name, arguments in calls]
    return TranscriptEntry(seq=0, role="assistant", content=text, data={"tool_calls": made} if made else {})


def _result(ident: str, text: str, *, name: str = "read", ok: bool = True) -> TranscriptEntry:
    return TranscriptEntry(seq=0, role="tool", content=text, data={"call_id": ident, "name": name, "ok": ok})


def _read(number: int, size: int) -> list[TranscriptEntry]:
    ident = f"c{number}"
    return [_says("", (ident, "read", '{"path": "a"}')), _result(ident, f"{number}:" + "x" * size)]


def test_the_first_message_and_what_was_not_seen_yet_stay_word_for_word() -> None:
    task, mail = _user("THE TASK with its schema"), _user("MAIL that came in")
    entries = [task, *_read(1, 5_000), *_read(2, 5_000), *_read(3, 100), mail]
    made = cut(entries, 1_000)
    assert made.kept[0] is task
    assert made.kept[-1] is mail
    assert [entry.content[:2] for entry in made.kept if entry.role == "tool"] == ["3:"]
    assert made.left_out == 4
    assert made.after < made.before


def test_a_text_that_came_while_an_answer_was_under_way_is_not_cut_with_the_step_before_it() -> None:
    task, steer = _user("THE TASK"), _user("STEER: stop and do the other thing")
    entries = [task, *_read(1, 100), steer, *_read(2, 5_000), *_read(3, 100)]
    made = cut(entries, 1_000, untaken=1)
    assert made.kept[-1] is steer
    assert [entry.content[:2] for entry in made.kept if entry.role == "tool"] == ["3:"]
    assert steer not in cut(entries, 1_000).kept, "one that a model has seen goes with its step"


def test_a_newest_result_that_is_too_long_keeps_whole_lines_of_both_ends_and_says_so() -> None:
    lines = "\n".join(f"line {number}" for number in range(10_000))
    made = cut([_user("task"), _says("", ("c", "grep", "{}")), _result("c", lines)], 4_000)
    (result,) = [entry for entry in made.kept if entry.role == "tool"]
    assert made.shortened == 1
    assert result.content.startswith("line 0\n")
    assert result.content.endswith("\nline 9999")
    assert "characters left out" in result.content
    assert set(result.content.splitlines()) - set(lines.splitlines()) == {
        "",
        next(line for line in result.content.splitlines() if line.startswith("[...")),
    }


def test_the_task_of_a_session_that_goes_on_with_an_earlier_one_stays_too() -> None:
    first, task = _user("THE FIRST TASK"), _user("THE NEW TASK")
    entries = [first, *_read(1, 900), task, *_read(2, 900), *_read(3, 900)]
    made = cut(entries, 1_000, task=task)
    assert made.kept[:2] == (first, task)
    assert [entry.content[:2] for entry in made.kept if entry.role == "tool"] == ["3:"]


def test_notes_of_ours_are_no_part_of_the_conversation() -> None:
    remark = TranscriptEntry(seq=0, role="note", content="the session ended")
    assert cut([_user("task"), remark], 100).kept == (_user("task"),)


def test_the_files_that_were_changed_are_listed_once_and_failed_changes_are_not() -> None:
    edit = json.dumps({"path": "a.py"})
    entries = [
        _says("", ("1", "edit", edit), ("2", "write", json.dumps({"path": "b.py"}))),
        _result("1", "ok", name="edit"),
        _result("2", "denied", name="write", ok=False),
        _says("", ("3", "edit", edit), ("4", "read", json.dumps({"path": "c.py"}))),
        _result("3", "ok", name="edit"),
        _result("4", "ok"),
    ]
    assert touched_files(entries) == ("a.py",)


def test_what_the_session_is_told_names_the_whole_the_files_and_the_sections() -> None:
    made = cut([_user("task"), *_read(1, 5_000), *_read(2, 10)], 500)
    text = note(made, whole="artifact 0123", files=["a.py"], sections=["findings"])
    assert "artifact 0123" in text
    assert "a.py" in text
    assert "findings" in text
    assert "2 of your earlier messages" in text


def test_the_kept_whole_holds_every_text_and_call() -> None:
    text = document([_user("task"), _says("look", ("1", "read", '{"path": "a"}')), _result("1", "body")])
    assert "task" in text
    assert 'calls read {"path": "a"}' in text
    assert "body" in text


def test_each_overflow_in_a_row_halves_the_room() -> None:
    per_token = chars_per_token(0, 0)
    rooms = [room_for(100_000, per_token, 0, failures) for failures in range(3)]
    assert rooms == [140_000, 70_000, 35_000]
    assert chars_per_token(4_000, 1_000) == 4.0


_STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4_000), st.booleans(), st.booleans()), max_size=12
)


@given(_STEPS, st.integers(0, 20_000))
def test_whatever_was_said_pairs_are_whole_and_the_newest_steps_stay_in_order(
    steps: list[tuple[int, int, bool, bool]], room: int
) -> None:
    entries = [_user("TASK")]
    for number, (calls, size, all_answered, steered) in enumerate(steps):
        idents = [f"{number}.{call}" for call in range(calls)]
        entries.append(_says(f"step {number}", *((ident, "read", "{}") for ident in idents)))
        answered = idents if all_answered else idents[:1]
        entries += [_result(ident, "y" * size) for ident in answered]
        if steered:
            entries.append(_user(f"steer {number}"))
    made = cut(entries, room)
    assert made.kept[0] == entries[0]
    asked = {call["id"] for entry in made.kept for call in entry.data.get("tool_calls", ())}
    kept = {entry.data["call_id"] for entry in made.kept if entry.role == "tool"}
    assert kept <= asked, "a result never stays without its call"
    results = {entry.data["call_id"] for entry in entries if entry.role == "tool"}
    assert results & asked == kept, "nor a call without the result it had"
    texts = [entry.content for entry in made.kept if entry.role == "assistant"]
    assert texts == [f"step {number}" for number in range(len(steps))][len(steps) - len(texts) :]
    if steps:
        assert texts, "the newest step stays"
        if steps[-1][3]:
            assert made.kept[-1].content == f"steer {len(steps) - 1}"
