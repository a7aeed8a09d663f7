"""The shells of a session that go on in the background: its jobs."""

import asyncio
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from crew_hooks.bub.compat import agent as compat
from crew_plugin.host import Job, JobEnded

__all__ = ["Jobs"]

_SHELL: Final = re.compile(r"shell_id: (\S+)")
_WHAT_LENGTH: Final = 120
_TAIL: Final = 4_000
"""Characters of a job's output that are told at its end; all of it can be read with `bash_output`."""


class Jobs:
    """Knows the jobs of one session, and tells when one ends by itself."""

    def __init__(self, session_id: str, emit: Callable[[JobEnded], None]) -> None:
        self._session_id = session_id
        self._emit = emit
        self._jobs: dict[str, Job] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._looks: dict[str, asyncio.Event] = {}

    def running(self) -> tuple[Job, ...]:
        """The jobs whose end was not told and is nobody's doing."""
        return tuple(job for job in self._jobs.values() if compat.shell_runs(job.id))

    def told(self, job: Job) -> bool:
        """The end of a job is told now. False if it is no news any more."""
        return self._jobs.pop(job.id, None) is not None

    def began(self, command: str, answer: str) -> None:
        """Bub answered a call of bash: a shell that the answer names goes on."""
        for match in _SHELL.finditer(answer[-_TAIL:]):
            shell_id = match[1]
            if shell_id in self._jobs or compat.shell_of(shell_id) != self._session_id:
                continue
            line = " ".join(command.split())
            what = line if len(line) <= _WHAT_LENGTH else line[: _WHAT_LENGTH - 1] + "…"
            job = self._jobs[shell_id] = Job(id=shell_id, what=what)
            task = asyncio.create_task(self._watch(job), name=f"crew job {shell_id}")
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)

    @contextmanager
    def looked_at(self, shell_id: str) -> Generator[None]:
        """The session looks at a shell or ends it: that it ended meanwhile is no news then."""
        done = self._looks[shell_id] = asyncio.Event()
        try:
            yield
        finally:
            self._looks.pop(shell_id, None)
            if compat.shell_of(shell_id) is None:
                self._jobs.pop(shell_id, None)
            done.set()

    async def end(self) -> None:
        """End all jobs; nothing is told of them."""
        mine = list(self._jobs)
        self._jobs.clear()
        await compat.end_shells(self._session_id, only=mine)

    async def close(self) -> None:
        """Watch no more."""
        self._jobs.clear()
        watching = list(self._watching)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    async def _watch(self, job: Job) -> None:
        end = await compat.shell_end(job.id)
        look = self._looks.get(job.id)
        if look is not None:
            await look.wait()
        if end is None or job.id not in self._jobs:
            return
        text = f"exit code {end.code}\n{end.output[-_TAIL:].strip()}".strip()
        self._emit(JobEnded(job=job, text=text, ok=end.code == 0))
