"""`RunStore` in one SQLite file and a folder of bodies."""

from crew_plugin.project import Project, ensure_state, refuse_links
from crew_plugin.store.journal import Journal
from crew_plugin.store.mail import Mail
from crew_plugin.store.removal import Removals
from crew_plugin.store.results import Results
from crew_plugin.store.transfer import Transfers

__all__ = ["SqliteStore"]


class SqliteStore(Results, Journal, Mail, Removals, Transfers):
    """Runs in a project's state folder. Used by the thread that opened it.

    Write-ahead log where the file system can, `synchronous=FULL`: what was returned for is on the
    disk. What the disk refuses surfaces as `StateUnwritable` with nothing half written, and the
    store stays usable.
    """

    @classmethod
    def open(cls, project: Project, *, read_only: bool = False) -> "SqliteStore":
        """The store of a project, made on first use. Opened to read, a store that does not exist
        reads as an empty one and nothing is made.

        Raises:
            StateUnwritable: the folder or the file cannot be written (or read).
            StoreTooNew: a newer crew-plugin wrote it.
        """
        if read_only:
            refuse_links(project)
        else:
            ensure_state(project)
        return cls(project.database, project.artifacts, read_only=read_only)
