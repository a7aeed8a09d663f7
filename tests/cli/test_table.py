"""One table of commands: what is made from it agrees with it."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from crew_plugin.cli.app import build_app
from crew_plugin.cli.quick import parse
from crew_plugin.cli.reference import reference
from crew_plugin.cli.table import COMMANDS, Command

ROOT = Path(__file__).resolve().parents[2]
KNOWN_TO_INVOKE = {"project", "state_dir", "debug"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_commands_function_takes_exactly_its_parameters_and_its_place(command: Command) -> None:
    function = getattr(import_module(command.module), command.function)
    wanted = {param.name for param in command.all_params} - KNOWN_TO_INVOKE | {"place"}
    parameters = inspect.signature(function).parameters
    assert set(parameters) == wanted
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters.values())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_help_of_a_command_says_what_it_does_and_gives_an_example(command: Command) -> None:
    done = CliRunner().invoke(build_app(), [command.name, "--help"], terminal_width=200)
    assert done.exit_code == 0
    flat = re.sub(r"\s+", " ", done.output)
    assert command.summary in flat
    assert f"Example: {command.example}" in flat
    for param in command.all_params:
        assert all(flag in flat for flag in param.flags)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_example_of_a_command_is_a_call_of_it(command: Command) -> None:
    import shlex

    name, *arguments = shlex.split(command.example)[1:]
    assert name == command.name
    real = typer.main.get_command(build_app())
    context = real.make_context("crew", [name, *arguments, "--help"], resilient_parsing=True)
    assert context is not None


def test_every_command_is_in_the_app_and_the_reference() -> None:
    done = CliRunner().invoke(build_app(), ["--help"])
    for command in COMMANDS:
        assert re.search(rf"^  {command.name} ", done.output, re.MULTILINE)


def test_the_reference_in_the_docs_is_the_one_of_the_table() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference()


WORDS = st.sampled_from(
    (
        *("status", "runs", "show", "events", "cancel", "run", "last", "run_1", "5", "abc", "--", "-1"),
        *("--json", "--json=1", "--limit", "--limit=3", "--follow", "-f", "--after", "--after=2", "--help"),
        *("--reason=x", "--project", "/tmp", "--force", "--prompt", "--nope", "--state-dir=/x", "--debug"),
    )
)


APP = typer.main.get_command(build_app())


@settings(deadline=None)
@given(st.lists(WORDS, max_size=6))
def test_the_quick_path_reads_a_call_as_typer_does_or_leaves_it_alone(words: list[str]) -> None:
    call = parse(words)
    if call is None:
        return
    group = APP.make_context("crew", list(words))
    name, command, rest = APP.resolve_command(group, group._protected_args + group.args)  # type: ignore[attr-defined]
    assert name == call.command.name
    with command.make_context(name, rest, parent=group) as context:
        seen = dict(context.params)
    assert seen == call.values


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["status", "--help"],
        ["status", "a", "b"],
        ["show", "--result=1"],
        ["cancel"],
        ["run", "x"],
    ],
)
def test_the_quick_path_leaves_help_errors_and_heavy_commands_to_typer(words: list[str]) -> None:
    assert parse(words) is None


def test_a_wrong_call_is_exit_code_two_with_the_usage() -> None:
    done = CliRunner().invoke(build_app(), ["runs", "--limit", "many"])
    assert done.exit_code == 2
    assert "Invalid value for '--limit'" in done.output


def test_the_version_is_that_of_the_installed_package() -> None:
    done = CliRunner().invoke(build_app(), ["--version"])
    assert re.fullmatch(r"crew-plugin \d+\.\d+\.\d+\S*\n", done.output)


@pytest.mark.parametrize(
    "words",
    [("runs",), ("status",), ("show", "last"), ("events", "last"), ("cancel", "last")],
    ids=lambda w: w[0],
)
def test_a_light_command_imports_neither_pydantic_nor_rich_nor_bub_nor_typer(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    code = (
        "import sys\n"
        "from crew_plugin.cli import main\n"
        f"sys.argv = ['crew', *{words!r}, '--project', {str(tmp_path)!r}]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'pydantic', 'rich', 'bub', 'typer', 'anyio', 'asyncio', 'yaml', 'jsonschema', 'psutil'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "HEAVY []" in done.stdout
