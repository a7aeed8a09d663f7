"""Explicit retries: the only way out of a terminal state."""

from collections.abc import Sequence

from crew_plugin.errors import IllegalTransition, NotAllowed
from crew_plugin.models.records import Lease, RunRecord, TaskRecord
from crew_plugin.models.states import RUN_RETRYABLE, TASK_RETRYABLE, RunState, TaskState
from crew_plugin.store.rows import text
from crew_plugin.store.tasks import Tasks

__all__ = ["Retries"]


class Retries(Tasks):
    """Finished tasks stay as they are; what ended otherwise is queued again, with its dependants."""

    def reopen_run(
        self, run_id: str, keys: Sequence[str], *, actor: str, spec: str | None = None
    ) -> RunRecord:
        """Make a failed or cancelled run `queued` again, with `run.reopened`, and requeue these
        tasks. Nobody owns it then; the epoch moves on, so whoever held it is fenced from here on."""
        with self._change():
            row = self._run_row(run_id)
            state = RunState(row["state"])
            if row["imported"] is not None:
                raise NotAllowed(
                    f"run {run_id} was imported: it can be read, and nothing of it is tried again"
                )
            if state not in RUN_RETRYABLE:
                raise IllegalTransition("run", run_id, state, "opened again")
            epoch = int(row["epoch"]) + 1
            self._update_run(
                "UPDATE run SET state = ?, cause = NULL, ended_at = NULL, worked = 0, epoch = ?,"
                " spec = coalesce(?, spec) WHERE id = ?",
                (RunState.QUEUED, epoch, None if spec is None else text(spec), run_id),
            )
            self._append(run_id, epoch, "run.reopened", actor, data={"tasks": list(keys), "epoch": epoch})
            self._requeue(run_id, epoch, keys, actor)
            return self.load_run(run_id)

    def retry_tasks(
        self, lease: Lease, keys: Sequence[str], *, actor: str, spec: str | None = None
    ) -> list[TaskRecord]:
        """Requeue these tasks of a run that goes on. Returns all tasks that changed."""
        with self._change():
            row = self._fence(lease)
            if RunState(row["state"]) not in (RunState.RUNNING, RunState.BLOCKED):
                raise IllegalTransition("run", lease.run_id, row["state"], "one that tasks are retried in")
            if spec is not None:
                self._update_run("UPDATE run SET spec = ? WHERE id = ?", (text(spec), lease.run_id))
            return self._requeue(lease.run_id, lease.epoch, keys, actor)

    def _requeue(self, run_id: str, epoch: int, keys: Sequence[str], actor: str) -> list[TaskRecord]:
        tasks = {task.key: task for task in self.load_tasks(run_id)}
        for key in keys:
            if self.load_task(run_id, key).state not in TASK_RETRYABLE:
                raise IllegalTransition("task", key, tasks[key].state, "retried")
        again = dict.fromkeys(keys)
        grown = True
        while grown:
            followers = [
                task.key
                for task in tasks.values()
                if task.state is TaskState.SKIPPED
                and task.key not in again
                and not again.keys().isdisjoint(task.depends_on)
            ]
            again |= dict.fromkeys(followers)
            grown = bool(followers)
        return [self._queue_again(epoch, tasks[key], actor) for key in again]

    def _queue_again(self, epoch: int, task: TaskRecord, actor: str) -> TaskRecord:
        """Somebody wants it: it may be started once more, however often it was before."""
        self._execute(
            "UPDATE task SET state = ?, cause = NULL, retry_at = NULL, ended_at = NULL, hold = NULL,"
            " max_dispatches = max(max_dispatches, dispatches + 1) WHERE id = ?",
            (TaskState.QUEUED, task.id),
        )
        letter = self._requeue_dead_letter(task.id, actor)
        self._append(
            task.run_id,
            epoch,
            "task.requeued",
            actor,
            task_id=task.id,
            data={"key": task.key, "was": str(task.state), **({"dead_letter_id": letter} if letter else {})},
        )
        return self.load_task(task.run_id, task.id)
