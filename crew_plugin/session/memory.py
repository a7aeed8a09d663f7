"""What the model of one session is given of what was said before, also after it was shortened."""

from collections.abc import Sequence

from crew_plugin.models.records import TranscriptEntry
from crew_plugin.session.compact import MAX_IN_A_ROW, Cut, chars_per_token, cut, room_for, size_of

__all__ = ["Memory"]


class Memory:
    """The conversation behind a session: what it began with, then its transcript; from the first
    compaction on what that kept, then what was said since."""

    def __init__(self, before: Sequence[TranscriptEntry] = (), *, after: int = 0) -> None:
        """`before` stands for the transcript up to its entry `after`."""
        self._base = tuple(before)
        self._after = after
        self._overflows = 0

    def said(self, transcript: Sequence[TranscriptEntry]) -> tuple[TranscriptEntry, ...]:
        """What a new engine session is to know."""
        return (*self._base, *(entry for entry in transcript if entry.seq > self._after))

    def overflowed(self) -> bool:
        """The model did not take the conversation. False if shortening it has not helped."""
        self._overflows += 1
        return self._overflows <= MAX_IN_A_ROW

    def answered(self) -> None:
        """The model took it."""
        self._overflows = 0

    def compact(
        self, transcript: Sequence[TranscriptEntry], *, window: int, tokens: int, fixed: int, untaken: int = 0
    ) -> Cut:
        """Shorten it. `tokens` is how long it was when it was last counted, 0 if never; `fixed`
        characters are sent beside it with every call; so many texts are `untaken` by a model call."""
        said = self.said(transcript)
        chars = sum(map(size_of, said))
        room = room_for(window, chars_per_token(chars + fixed, tokens), fixed, max(0, self._overflows - 1))
        if self._overflows:
            # The model holds less than was thought: whatever that was, half of this is less.
            room = min(room, chars // 2)
        task = next((entry for entry in transcript if entry.role == "user"), None)
        made = cut(said, room, task=task, untaken=untaken)
        self._base = made.kept
        self._after = transcript[-1].seq if transcript else 0
        return made
