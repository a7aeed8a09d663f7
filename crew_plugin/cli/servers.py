"""What `doctor` says about MCP servers: each one's state, and what of it each agent gets."""

from collections.abc import Sequence
from typing import Any

from crew_plugin.host import ServerReport

__all__ = ["failed", "report_facts", "report_text", "shares_text"]


def failed(report: ServerReport) -> bool:
    """Whether there is something to put right."""
    return report.state != "connected"


def report_text(report: ServerReport) -> str:
    """One server, for a line of its own."""
    if failed(report):
        return f"{report.state.replace('_', ' ')}: {report.reason or 'it does not say why'}"
    names = ", ".join(name.split("__", 2)[-1] for name in report.tools)
    return f"{report.offered} tools: {names}" if report.offered else "connected, but it has no tools"


def shares_text(reports: Sequence[ServerReport]) -> str:
    """What an agent gets of each server, for the end of the agent's line."""
    return "; ".join(_share(report) for report in reports)


def _share(report: ServerReport) -> str:
    whose = "own MCP server" if report.own else "MCP server"
    if failed(report):
        return f"{whose} {report.name} {report_text(report)}"
    denied = f", denied: {', '.join(report.denied)}" if report.denied else ""
    return f"{whose} {report.name} gives {len(report.tools)} of {report.offered} tools{denied}"


def report_facts(report: ServerReport) -> dict[str, Any]:
    """One server, for machines."""
    return {
        "name": report.name,
        "own": report.own,
        "state": report.state,
        "reason": report.reason,
        "tools": list(report.tools),
        "denied": list(report.denied),
        "offered": report.offered,
    }
