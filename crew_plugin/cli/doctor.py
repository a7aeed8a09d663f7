"""`doctor`: looks at everything a run needs, says what is wrong and what to do about it.

Each check is a function that yields findings. A check that breaks is itself a finding, so that one
broken thing never hides the others.
"""

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place
from crew_plugin.cli.screen import stderr_into
from crew_plugin.cli.servers import failed, report_facts, report_text, shares_text
from crew_plugin.errors import CrewError
from crew_plugin.mcp.names import Access
from crew_plugin.notify.ways import IN_TERMINAL, problem_with
from crew_plugin.ui.text import one_line, printable
from crew_plugin.ui.views import LOST, run_rows

if TYPE_CHECKING:
    from crew_plugin.config import Settings
    from crew_plugin.crew import Crew
    from crew_plugin.host import ServerReport
    from crew_plugin.hosting import HostReport
    from crew_plugin.project import Project
    from crew_plugin.resources import AgentFile, Catalog

__all__ = ["doctor"]

_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph"})
_OLDEST_PYTHON: Final = (3, 12)
_OLDEST_SQLITE: Final = (3, 35)
_GIT_SECONDS: Final = 10


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    """Works, but not as somebody may expect."""
    FAIL = "FAIL"
    """Something cannot work until it is changed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    about: str
    text: str


@dataclass(slots=True, kw_only=True)
class _Patient:
    """What the checks look at, and what earlier ones found for later ones."""

    place: Place
    connect: bool
    project: "Project | None" = None
    settings: "Settings | None" = None
    catalog: "Catalog | None" = None
    host: "HostReport | None" = None
    findings: dict[str, list[Finding]] = field(default_factory=dict[str, list[Finding]])
    agents: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def doctor(*, place: Place, json: bool, connect: bool) -> int:
    """Check everything; 1 if anything cannot work."""
    patient = _Patient(place=place, connect=connect)
    for section, check in _CHECKS.items():
        patient.findings[section] = list(_guarded(check, patient))
    patient.findings["agents"] = _check_agents(patient)
    everything = [finding for findings in patient.findings.values() for finding in findings]
    failed = any(finding.level is Level.FAIL for finding in everything)
    if json:
        print_json(_document(patient, ok=not failed))
    else:
        print(_text(patient))
    return Exit.FAILED if failed else Exit.OK


# --- checks --------------------------------------------------------------------------------


def _check_versions(patient: _Patient) -> Iterator[Finding]:
    from importlib.metadata import version

    python = platform.python_version()
    enough = sys.version_info >= _OLDEST_PYTHON
    wanted = "" if enough else f"; crew-plugin needs {'.'.join(map(str, _OLDEST_PYTHON))} or newer"
    yield Finding(Level.OK if enough else Level.FAIL, "Python", f"{python} at {sys.executable}{wanted}")
    yield Finding(Level.OK, "crew-plugin", version("crew-plugin"))
    from crew_plugin.hosting import load_checkup

    patient.host = report = load_checkup().report()
    problem = report.problem
    yield Finding(
        Level.FAIL if problem else Level.OK,
        report.name,
        f"{report.version}{'; ' + problem if problem else ''}",
    )
    for name, number in report.parts.items():
        yield Finding(Level.OK, name, number)


def _check_model(patient: _Patient) -> Iterator[Finding]:
    from crew_plugin.hosting import KeyState

    report = patient.host
    if report is None:
        return
    origin = "" if report.model_chosen else " (the host's default; nothing was chosen)"
    yield Finding(Level.OK if report.model_chosen else Level.WARN, "model", f"{report.model}{origin}")
    if report.key is KeyState.MISSING:
        hint = f"none found; set {report.key_hint} (environment, or {report.config_file})"
        yield Finding(Level.FAIL, "key", hint)
    else:
        yield Finding(Level.OK, "key", str(report.key))


def _check_project(patient: _Patient) -> Iterator[Finding]:
    patient.project = project = patient.place.find()
    yield Finding(Level.OK, "root", str(project.root))
    yield _writable(project.state_dir)
    kind = _file_system(project.state_dir)
    if kind in _NETWORK:
        text = f"{kind}: SQLite's write-ahead log is not safe on a network; use --state-dir on a local disk"
        yield Finding(Level.FAIL, "file system", text)
    elif kind:
        yield Finding(Level.OK, "file system", kind)
    yield _git(project.root)


def _check_store(patient: _Patient) -> Iterator[Finding]:
    yield _sqlite()
    project = patient.project
    if project is None:
        return
    if not project.database.exists():
        yield Finding(Level.OK, "store", "none yet; made at the first run")
        return
    with patient.place.reading() as store:
        rows = run_rows(store, limit=1000)
        cleaned = store.list_upkeep(limit=1)
    with closing(sqlite3.connect(f"file:{project.database}?mode=ro", uri=True)) as connection:
        mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        broken = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)") if row[0] != "ok"]
    size = project.database.stat().st_size
    yield Finding(Level.OK, "store", f"{project.database}, schema {version}, {size // 1024} KB")
    yield Finding(Level.OK if mode == "wal" else Level.WARN, "journal mode", mode)
    yield Finding(Level.FAIL if broken else Level.OK, "integrity", "; ".join(broken) if broken else "checked")
    counts = Counter(row.shown_state for row in rows)
    yield Finding(
        Level.WARN if counts[LOST] else Level.OK,
        "runs",
        ", ".join(f"{count} {state}" for state, count in counts.items()) or "none",
    )
    if cleaned:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(cleaned[0].at))
        why = f" ({one_line(cleaned[0].reason, 100)})" if cleaned[0].reason else ""
        yield Finding(Level.OK, "last cleanup", f"{when} by {cleaned[0].actor}{why}")
    for row in rows:
        if row.shown_state == LOST:
            yield Finding(Level.WARN, "lost run", f"{row.id}: close it with crew cancel {row.id}")


def _check_config(patient: _Patient) -> Iterator[Finding]:
    from crew_plugin.config import load_settings

    root = patient.project.root if patient.project else None
    patient.settings = settings = load_settings(root)
    for warning in settings.warnings:
        yield Finding(Level.WARN, "setting", str(warning))
    changed = ", ".join(f"{key} ({origin})" for key, origin in settings.sources.items())
    yield Finding(Level.OK, "settings", changed or "all defaults")
    problem = problem_with(settings)
    level = Level.OK if problem is None else Level.WARN
    yield Finding(level, "notify", problem or _told_by(settings.notify.how))


def _told_by(how: str) -> str:
    if how == "off":
        return "off; background runs are told of in their chat only"
    return f"{how}, in the terminal of the chat that asked for the run" if how in IN_TERMINAL else how


def _check_resources(patient: _Patient) -> Iterator[Finding]:
    from crew_plugin.config import Settings
    from crew_plugin.resources import discover
    from crew_plugin.resources.check import catalog_problems

    root = patient.project.root if patient.project else None
    patient.catalog = catalog = discover(root, patient.settings or Settings())
    yield Finding(
        Level.OK,
        "found",
        f"{len(catalog.agents)} agents, {len(catalog.teams)} teams, "
        f"{len(catalog.workflows)} workflows, {len(catalog.skills)} skills",
    )
    for problem in catalog.problems:
        yield Finding(Level.FAIL, "file", f"{problem} (skipped)")
    for notice in catalog.notices:
        yield Finding(Level.WARN, "file", str(notice))
    for item in catalog.hidden:
        yield Finding(Level.WARN, f"{item.kind} {item.name}", f"{item.path}: {item.reason}")
    for problem in catalog_problems(catalog):
        yield Finding(Level.FAIL, "file", str(problem))


def _check_hooks(patient: _Patient) -> Iterator[Finding]:
    from crew_plugin.plugins import load_hooks
    from crew_plugin.resources import is_trusted

    if patient.project is None or patient.settings is None:
        return
    root = patient.project.root
    hooks = load_hooks(root, trusted=is_trusted(root, patient.settings))
    for name in (*hooks.packages, *(file.name for file in hooks.files if file.fault is None)):
        yield Finding(Level.OK, name, ", ".join(hooks.hooks_of(name)) or "implements no hook")
    for fault in hooks.faults:
        yield Finding(Level.FAIL, "hook file", f"{fault}; every run is refused until it is repaired")
    for path in hooks.untrusted:
        yield Finding(Level.WARN, "hook file", f"{path}: not loaded, the project is not in trusted_projects")


def _check_servers(patient: _Patient) -> Iterator[Finding]:
    if patient.host is None:
        return
    names = patient.host.servers
    if not names:
        yield Finding(Level.OK, "MCP servers", "none configured in the host")
    elif not patient.connect:
        yield Finding(Level.OK, "MCP servers", f"{', '.join(names)} (not asked; --connect asks them)")


_CHECKS: Final[dict[str, Callable[[_Patient], Iterator[Finding]]]] = {
    "versions": _check_versions,
    "model": _check_model,
    "project": _check_project,
    "store": _check_store,
    "settings": _check_config,
    "resources": _check_resources,
    "hooks": _check_hooks,
    "servers": _check_servers,
}


def _guarded(check: Callable[[_Patient], Iterator[Finding]], patient: _Patient) -> Iterator[Finding]:
    try:
        yield from check(patient)
    except (CrewError, OSError, sqlite3.Error) as error:
        yield Finding(Level.FAIL, "problem", str(error))
    except Exception as error:  # noqa: BLE001 - a broken check is what the report is for
        yield Finding(Level.FAIL, "problem", f"unexpected {type(error).__name__}: {error}")


# --- agents: what the host would really give them -------------------------------------------


def _check_agents(patient: _Patient) -> list[Finding]:
    """Loads the host, which takes a moment; without one, says what the files ask for."""
    import anyio

    if patient.catalog is None or patient.project is None:
        return []
    if patient.host is None or patient.host.problem:
        return list(_asked(patient))
    findings: list[Finding] = []
    # What the host logs while it is only being looked at is of no use to anybody.
    with stderr_into(Path(os.devnull)):
        try:
            anyio.run(_ask_host, patient, findings, backend="asyncio")
        except Exception as error:  # noqa: BLE001 - a host that does not load is what the report is for
            findings.append(
                Finding(
                    Level.FAIL,
                    "host",
                    f"cannot be loaded: {type(error).__name__}: {one_line(str(error), 300)}",
                )
            )
    return findings


def _asked(patient: _Patient) -> Iterator[Finding]:
    assert patient.catalog is not None
    for agent in patient.catalog.agents.values():
        patient.agents.append(_agent_facts(agent, agent.tools, (), patient))
        yield Finding(
            Level.WARN, agent.name, f"asks for {', '.join(agent.tools) or 'no tools'}; no host to ask"
        )


async def _ask_host(patient: _Patient, findings: list[Finding]) -> None:
    async with _host(patient) as crew:
        patient.findings["settings"].append(_runtime(crew))
        if patient.connect:
            patient.findings["servers"].extend(await _ask_servers(crew, patient))
        assert patient.catalog is not None
        findings.extend([await _resolve(agent, crew, patient) for agent in patient.catalog.agents.values()])


def _runtime(crew: "Crew") -> Finding:
    """How a run would be executed that says nothing about it."""
    mode = crew.settings.runtime.mode
    try:
        found = crew.supervisor.resolve(mode)
    except CrewError as error:
        return Finding(Level.FAIL, "runtime", str(error))
    level = Level.WARN if found.fallback else Level.OK
    return Finding(level, "runtime", f"{mode}: {found.kind} sessions; {found.reason}")


async def _ask_servers(crew: "Crew", patient: _Patient) -> list[Finding]:
    reports = await crew.engine.server_reports(("mcp__*",), str(crew.project.root))
    return [
        Finding(_level(report), f"MCP {report.name}", one_line(report_text(report), 300))
        for report in reports
    ]


def _level(report: "ServerReport") -> Level:
    return Level.FAIL if failed(report) else Level.OK


async def _resolve(agent: "AgentFile", crew: "Crew", patient: _Patient) -> Finding:
    """What an agent really gets: of this package, of the host, of the host's servers and its own."""
    own, cwd = _own_tools(), str(crew.project.root)
    access = Access(allow=agent.tools, deny=agent.deny_tools)
    ours = access.within(name for name in agent.tools if name in own)
    asked = tuple(name for name in agent.tools if name not in own)
    known = tuple(name for name in asked if patient.connect or not name.startswith("mcp__"))
    servers = agent.server_specs() if patient.connect else ()
    given = await crew.engine.available_tools(known, cwd, denied=agent.deny_tools, servers=servers)
    reports: tuple[ServerReport, ...] = ()
    if patient.connect:
        reports = await crew.engine.server_reports(asked, cwd, denied=agent.deny_tools, servers=servers)
    missing = tuple(
        name for name in known if "*" not in name and name not in given and not access.denies(name)
    )
    patient.agents.append(_agent_facts(agent, (*ours, *given), missing, patient, reports))
    text = f"{', '.join((*ours, *given)) or 'no tools'}; model {_model(agent, patient)}"
    if agent.skills:
        text += f"; skills {', '.join(agent.skills)}"
    if reports:
        text += f"; {shares_text(reports)}"
    unasked = [*(name for name in asked if name not in known)]
    if not patient.connect:
        unasked += [f"its MCP server {server.name}" for server in agent.server_specs()]
    if missing:
        return Finding(Level.FAIL, agent.name, f"{text}; the host has no {', '.join(missing)}")
    if unasked:
        text += f"; {', '.join(unasked)} not asked for (--connect)"
    level = Level.FAIL if any(report.own and failed(report) for report in reports) else Level.OK
    return Finding(level, agent.name, text)


def _model(agent: "AgentFile", patient: _Patient) -> str:
    chosen = agent.model or (patient.settings.model if patient.settings else None)
    return chosen or (patient.host.model if patient.host else "the host's")


def _agent_facts(
    agent: "AgentFile",
    tools: tuple[str, ...],
    missing: tuple[str, ...],
    patient: _Patient,
    servers: "tuple[ServerReport, ...]" = (),
) -> dict[str, Any]:
    return {
        "name": agent.name,
        "source": str(agent.source),
        "trusted": agent.trusted,
        "tools": list(tools),
        "missing_tools": list(missing),
        "denied_tools": list(agent.deny_tools),
        "mcp_servers": [report_facts(report) for report in servers],
        "model": _model(agent, patient),
        "skills": list(agent.skills),
    }


def _own_tools() -> frozenset[str]:
    """The tools that this package brings itself, whatever the host has."""
    from importlib import import_module

    from crew_plugin.manifest import load_manifest

    files = next(name for name in load_manifest().tool_modules if name.endswith(".files"))
    return frozenset(import_module(files).FILE_TOOLS)


@asynccontextmanager
async def _host(patient: _Patient) -> "AsyncGenerator[Crew]":
    from crew_plugin.config import Settings
    from crew_plugin.hosting import load_host

    assert patient.project is not None
    async with load_host()(patient.project, patient.settings or Settings()) as crew:
        yield crew


# --- parts ---------------------------------------------------------------------------------


def _writable(folder: Path) -> Finding:
    """Whether state can be written there, found out by writing, without leaving anything."""
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".crew-probe-"):
            pass
    except OSError as error:
        text = f"{folder} cannot be written: {error.strerror or error}; make it writable, or use --state-dir"
        return Finding(Level.FAIL, "state", text)
    free = shutil.disk_usage(nearest).free
    if free < 50_000_000:
        return Finding(Level.WARN, "state", f"{folder}: only {free // 1_000_000} MB are free")
    return Finding(Level.OK, "state", f"{folder}{'' if folder.exists() else ' (made at first use)'}")


def _file_system(folder: Path) -> str:
    """The kind of file system under a folder, where the system tells."""
    real = str(folder.resolve())
    best = ("", "")
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _, point, kind, *_ = line.split(" ")
                point = point.replace("\\040", " ")
                inside = real == point or real.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best[0]):
                    best = (point, kind)
    except OSError:
        return ""
    return best[1]


def _git(root: Path) -> Finding:
    git = shutil.which("git")
    if git is None:
        return Finding(Level.WARN, "git", "not found; everything works but worktrees")
    try:
        done = subprocess.run(
            [git, "--version"], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(Level.WARN, "git", f"does not run: {error}")
    inside = any((folder / ".git").exists() for folder in (root, *root.parents))
    where = "" if inside else "; this project is not a repository, so worktrees are not available"
    return Finding(Level.OK, "git", done.stdout.strip() + where)


def _sqlite() -> Finding:
    enough = sqlite3.sqlite_version_info >= _OLDEST_SQLITE
    wanted = "" if enough else f"; {'.'.join(map(str, _OLDEST_SQLITE))} or newer is needed"
    return Finding(Level.OK if enough else Level.FAIL, "SQLite", sqlite3.sqlite_version + wanted)


def _document(patient: _Patient, *, ok: bool) -> dict[str, Any]:
    return {
        "ok": ok,
        "checks": [
            {"section": section, "level": str(item.level).lower(), "about": item.about, "text": item.text}
            for section, findings in patient.findings.items()
            for item in findings
        ],
        "agents": patient.agents,
    }


def _text(patient: _Patient) -> str:
    lines: list[str] = []
    for section, findings in patient.findings.items():
        if not findings:
            continue
        lines.append(section)
        lines.extend(f"  {item.level:<4}  {item.about}: {item.text}" for item in findings)
    failed = sum(item.level is Level.FAIL for findings in patient.findings.values() for item in findings)
    warned = sum(item.level is Level.WARN for findings in patient.findings.values() for item in findings)
    lines.append("")
    counted = f"{failed} problem{'s' * (failed != 1)}, {warned} warning{'s' * (warned != 1)}"
    lines.append(counted if failed or warned else "all is well")
    return printable("\n".join(lines))
