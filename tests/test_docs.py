"""What the documentation says is there, and what is there is said."""

import dataclasses
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest
import typer.main

from crew_plugin import errors, hookspecs
from crew_plugin.cli.app import build_app
from crew_plugin.cli.table import COMMANDS
from crew_plugin.config.describe import rows
from crew_plugin.models.events import EVENT_TYPES
from crew_plugin.models.spec import AgentSpec
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.project import Project
from crew_tools.irc import irc_tool
from crew_tools.schemas.generate import all_schemas
from crew_tools.submit_result import submit_result_tool
from crew_tools.team.actions import ACTIONS
from tests import generate
from tests.engine.bench import open_bench, spec_of, step
from tests.named import named_tests

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
EXAMPLE = DOCS / "examples" / "crew-freeze"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
STATUSES = {"done", "partly", "not yet"}
HOOKS = [
    name for name, hook in vars(hookspecs.CrewSpecs).items() if inspect.isfunction(hook) and name[0] != "_"
]
EVENTS = [each for name in hookspecs.__all__ if dataclasses.is_dataclass(each := getattr(hookspecs, name))]


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code_lines(path: Path) -> list[str]:
    """Lines of code blocks and pieces of code in the text."""
    parts = re.split(r"^```.*$", text(path), flags=re.MULTILINE)
    lines = [line.strip() for block in parts[1::2] for line in block.splitlines()]
    return lines + [piece for prose in parts[0::2] for piece in re.findall(r"`([^`\n]+)`", prose)]


@cache
def anchors(path: Path) -> set[str]:
    """What a link into this page may point at."""
    named = {
        re.sub(r"[^\w\- ]", "", head.lower()) for head in re.findall(r"^#+ (.*)$", text(path), re.MULTILINE)
    }
    return {head.replace(" ", "-") for head in named}


# What is done and what is not


def status_rows() -> list[list[str]]:
    lines = [line for line in text(DOCS / "status.md").splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_status_has_a_row_for_each_of_the_65_capabilities() -> None:
    assert [row[0] for row in status_rows()] == [str(number) for number in range(1, 66)]
    assert {len(row) for row in status_rows()} == {5}


def test_each_status_is_done_partly_or_not_yet_and_says_what_is_there() -> None:
    for number, _, status, what, tests in status_rows():
        assert status in STATUSES, number
        assert what.endswith("."), number
        assert (tests == "—") == (status == "not yet"), number


def test_each_test_that_the_status_names_exists() -> None:
    named = {name for row in status_rows() for name in re.findall(r"`(tests/[^`]+)`", row[4])}
    assert named - named_tests() == set()


def test_each_promise_is_shown_by_tests_that_exist() -> None:
    lines = text(DOCS / "reliability.md").splitlines()
    rows = [line for line in lines if line.startswith("| ") and line != "| promise | shown by |"]
    named = [re.findall(r"`(tests/[^`]+)`", row) for row in rows]
    assert rows
    assert all(named)
    assert {name for names in named for name in names} - named_tests() == set()


def test_the_design_pages_say_what_was_chosen_and_what_was_taken() -> None:
    rows = [line for line in text(DOCS / "decisions.md").splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    assert all(line.count(" | ") == 2 for line in rows), "each says what, instead of or from where, and why"
    words = {
        line.partition(" | ")[0].removeprefix("| ") for line in text(DOCS / "architecture.md").splitlines()
    }
    assert {"host", "run", "supervisor", "result", "artifact", "event"} <= words


# Hooks


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_documented_with_its_signature(name: str) -> None:
    signature = inspect.signature(getattr(hookspecs.CrewSpecs, name))
    parameters = ", ".join(
        f"{each.name}: {inspect.formatannotation(each.annotation, 'crew_plugin.hookspecs')}"
        for each in list(signature.parameters.values())[1:]
    )
    returns = inspect.formatannotation(signature.return_annotation)
    line = f"### `{name}({parameters}) -> {returns}`".replace("crew_plugin.hookspecs.", "")
    assert line in text(DOCS / "hooks.md").splitlines()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_what_a_hook_is_given_is_documented_field_by_field(event: type) -> None:
    fields = ", ".join(
        f"`{field.name}: {inspect.formatannotation(field.type)}`" for field in dataclasses.fields(event)
    )
    line = f"| `{event.__name__}` | {fields} |".replace("crew_plugin.models.causes.", "")
    assert line in text(DOCS / "hooks.md").replace("\\|", "|").splitlines()


def test_the_example_plugin_stands_in_the_page_as_it_is() -> None:
    for path in (EXAMPLE / "pyproject.toml", EXAMPLE / "crew_freeze.py"):
        assert text(path).strip() in text(DOCS / "hooks.md")


@pytest.fixture
def installed_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example, built and unpacked where Python finds packages."""
    source = tmp_path / "source"
    source.mkdir()
    for path in EXAMPLE.glob("*.*"):
        (source / path.name).write_bytes(path.read_bytes())
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "crew_freeze", raising=False)


@pytest.mark.anyio
@pytest.mark.usefixtures("installed_example")
async def test_the_example_plugin_is_found_by_its_entry_point_and_does_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    agents = {name: AgentSpec(name=name, prompt="You work.") for name in ("explorer", "executor")}
    spec = spec_of(
        step("look", agent="explorer", role="explorer"),
        step("change", "look", agent="executor", role="executor"),
        cwd=str(folder),
        agents=agents,
    )
    async with open_bench(Project(root=tmp_path, state_dir=tmp_path / "state")) as bench:
        free = await bench.execute(spec)
        assert free.state is RunState.COMPLETED

        (folder / ".freeze").touch()
        frozen = await bench.execute(spec)
        assert await bench.states(frozen.id) == {"look": TaskState.COMPLETED, "change": TaskState.SKIPPED}
        assert "executor may not change a frozen folder" in str(
            (await bench.tasks(frozen.id))["change"].cause
        )

        (folder / ".freeze").write_text("all\n", encoding="utf-8")
        refused = await bench.execute(spec)
        assert (refused.state, "is frozen" in str(refused.cause)) == (RunState.FAILED, True)
        executed = await bench.events(free.id, "hook.executed")
        assert {event.data["plugin"] for event in executed} == {"freeze"}

    log = (folder / "crew.log").read_text(encoding="utf-8").splitlines()
    assert f"{free.id} change completed: done" in log
    assert [line for line in log if "run " in line] == [
        f"{free.id} run completed",
        f"{frozen.id} run failed",
        f"{refused.id} run failed",
    ]


# Tools, commands, settings, errors


def test_every_generated_file_is_current() -> None:
    assert generate.outdated() == [], "run: make generate"


@pytest.mark.parametrize("name", sorted(all_schemas()))
def test_every_tool_of_the_generated_schemas_has_its_section(name: str) -> None:
    assert f"\n## {name}\n" in text(DOCS / "tools.md")


@pytest.mark.parametrize(
    ("tool", "parameters"),
    [("submit_result", ("summary", "data", "artifacts", "error")), ("irc", ("op", "to", "message"))],
)
def test_the_tools_of_every_session_have_their_page(tool: str, parameters: tuple[str, ...]) -> None:
    source = inspect.getsource(
        sys.modules[{"irc": irc_tool, "submit_result": submit_result_tool}[tool].__module__]
    )
    page = text(DOCS / "results.md").partition(f"`{tool}`\n")[2]
    for name in parameters:
        assert f"| `{name}` | " in page
        assert f'"{name}": ' in source


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_its_section(command: object) -> None:
    name = getattr(command, "name", "")
    assert re.search(rf"^## `crew {name}\b", text(DOCS / "cli.md"), re.MULTILINE)


@pytest.mark.parametrize("key", [row.key for row in rows()])
def test_every_setting_has_its_line(key: str) -> None:
    assert f"\n| `{key}` | " in text(DOCS / "configuration.md")


def test_every_error_stands_in_the_tree_under_its_family() -> None:
    tree = text(DOCS / "states.md").partition("```text\n")[2].partition("```")[0]
    family: list[str] = []
    shown: set[tuple[str, str]] = set()
    for line in tree.splitlines():
        (name,) = re.findall(r"^[|` -]*([A-Z]\w+)", line)
        depth = line.index(name) // 3
        family[depth:] = [name]
        shown |= {(name, family[depth - 1])} if depth else set()
    classes = [getattr(errors, name) for name in errors.__all__ if name != "EngineErrorKind"]
    assert shown == {
        (each.__name__, each.__base__.__name__) for each in classes if each is not errors.CrewError
    }


# What a reader can do


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = "".join(re.split(r"^```.*?^```", text(page), flags=re.MULTILINE | re.DOTALL))
    for link in re.findall(r"\]\(([^)]+)\)", prose):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    left = [ROOT / "README.md"]
    while left:
        page = left.pop()
        seen.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", text(page))
        left += [path for link in links if (path := (page.parent / link).resolve()) not in seen]
    assert set(PAGES) - seen == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_can_be_typed(page: Path) -> None:
    app = typer.main.get_command(build_app())
    for line in code_lines(page):
        command = line.partition("  ")[0].partition(" # ")[0]
        if re.match(r"(bub )?crew [a-z]", command):
            words = shlex.split(command.removeprefix("bub "))[1:]
            app.make_context("crew", [*words, "--help"], resilient_parsing=True)
            assert words[0] in {each.name for each in COMMANDS}, line
        elif command.startswith(",team "):
            assert shlex.split(command)[1] in ACTIONS, line
        elif command.startswith(",crew "):
            assert shlex.split(command)[1] in {*ACTIONS, *(each.name for each in COMMANDS)}, line
        elif command.startswith("make "):
            assert re.search(rf"^{shlex.split(command)[1]}:", text(ROOT / "Makefile"), re.MULTILINE), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    keys = {row.key for row in rows()}
    sections = {key.split(".")[0] for key in keys if "." in key}
    for piece in code_lines(page):
        dotted = re.fullmatch(r"[a-z_]+(\.[a-z_<>]+)+", piece) and piece not in EVENT_TYPES
        if dotted and piece.split(".")[0] in sections:
            assert piece in keys or any(key.startswith(f"{piece}.") for key in keys), piece


def test_what_is_to_be_installed_is_an_extra_of_the_package() -> None:
    project = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]
    for page in PAGES:
        for extra in re.findall(r"""(?:crew-plugin|"\.)\[(\w+)\]""", text(page)):
            assert extra in project["optional-dependencies"]


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLE.glob("*.*")], ids=lambda page: page.name)
def test_a_page_has_no_path_of_a_machine_and_nothing_left_to_fill_in(page: Path) -> None:
    assert not re.search(r"/(home|root|Users|work|tmp|private)/|[A-Z]:\\\\", text(page))
    assert not re.search(
        r"\b(TODO|TBD|FIXME|XXX|lorem|coming soon|to be (written|filled|done))\b", text(page)
    )
