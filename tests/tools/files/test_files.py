"""The file tools against ordinary and hostile trees."""

import os
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest

from crew_plugin.host import ToolContext, ToolError
from crew_tools.files import FILE_TOOLS, file_tools

pytestmark = pytest.mark.anyio

CONTEXT = ToolContext(session="s", call_id="c")


async def call(tool: str, root: Path, **arguments: Any) -> str:
    (spec,) = file_tools(str(root), (tool,))
    with anyio.fail_after(60):
        return (await spec.execute(arguments, CONTEXT)).text


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "room"
    (root / "src" / "deep").mkdir(parents=True)
    (root / "src" / "app.py").write_text("import os\n\n\ndef main():\n    return os.name\n")
    (root / "src" / "deep" / "util.ts").write_text("export const main = 1;\n")
    (root / "README.md").write_text("# Title\nmain thing\n")
    (tmp_path / "outside.txt").write_text("not yours, main\n")
    return root


# --- which tools -----------------------------------------------------------------------------


async def test_only_the_listed_file_tools_are_built(tree: Path) -> None:
    assert [spec.name for spec in file_tools(str(tree))] == list(FILE_TOOLS)
    assert [spec.name for spec in file_tools(str(tree), ("bash", "ls", "grep"))] == ["grep", "ls"]


# --- read ------------------------------------------------------------------------------------


async def test_read_numbers_lines_and_says_how_many_there_are(tree: Path) -> None:
    text = await call("read", tree, path="src/app.py", offset="2", limit=3)
    assert text.splitlines() == [
        "src/app.py: lines 2 to 4 of 5",
        "     2\t",
        "     3\t",
        "     4\tdef main():",
        "... 1 more lines; go on with offset=5",
    ]


async def test_read_takes_an_absolute_path_inside_the_folder(tree: Path) -> None:
    assert "# Title" in await call("read", tree, path=str(tree / "README.md"))


@pytest.mark.parametrize(
    "path", ["../outside.txt", "/etc/passwd", "src/../../outside.txt", "link", "deep_link/x"]
)
async def test_read_refuses_what_lies_outside_and_names_the_folder(tree: Path, path: str) -> None:
    (tree / "link").symlink_to(tree.parent / "outside.txt")
    (tree / "deep_link").symlink_to(tree.parent)
    with pytest.raises(ToolError, match=f"leads out of .*{tree.name}"):
        await call("read", tree, path=path)


async def test_read_follows_a_link_that_stays_inside(tree: Path) -> None:
    (tree / "here").symlink_to("README.md")
    assert "main thing" in await call("read", tree, path="here")


async def test_read_names_near_files_when_there_is_no_such_file(tree: Path) -> None:
    with pytest.raises(ToolError, match=r"near: 'src/app\.py'"):
        await call("read", tree, path="src/ap.py")


async def test_read_refuses_binary_files_folders_fifos_and_sockets(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "blob").write_bytes(b"\x7fELF\0\0")
    os.mkfifo(tree / "pipe")
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tree)  # the name of a socket has to be short
    server.bind("sock")
    server.close()
    for path, reason in [("blob", "binary"), ("src", "folder"), ("pipe", "fifo"), ("sock", "cannot read")]:
        with pytest.raises(ToolError, match=reason):
            await call("read", tree, path=path)


async def test_read_says_when_the_offset_is_beyond_the_end(tree: Path) -> None:
    with pytest.raises(ToolError, match="only 2 lines"):
        await call("read", tree, path="README.md", offset=10)


async def test_read_of_an_empty_file_says_so(tree: Path) -> None:
    (tree / "empty").touch()
    assert await call("read", tree, path="empty") == "empty is empty."


async def test_read_cuts_one_endless_line_and_says_how_much(tree: Path) -> None:
    (tree / "long").write_text("x" * 5_000_000 + "\nsecond\n")
    text = await call("read", tree, path="long")
    assert len(text) < 3_000
    assert "4,998,000 more bytes in this line" in text
    assert "second" in text


async def test_read_bounds_its_text_and_tells_where_to_go_on(tree: Path) -> None:
    (tree / "big").write_text("".join(f"line {n} {'y' * 90}\n" for n in range(1, 100_001)))
    text = await call("read", tree, path="big", limit=5000)
    assert len(text) < 60_000
    assert "of 100,000" in text.splitlines()[0]
    last = int(text.splitlines()[-1].rpartition("=")[2])
    assert f"line {last} " in await call("read", tree, path="big", offset=last, limit=1)


async def test_read_survives_bytes_that_are_no_text(tree: Path) -> None:
    (tree / "latin").write_bytes(b"caf\xe9\nna\xefve\n")
    assert "caf\ufffd" in await call("read", tree, path="latin")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_read_tells_of_a_missing_permission(tree: Path) -> None:
    (tree / "mine").write_text("x")
    (tree / "mine").chmod(0)
    with pytest.raises(ToolError, match="permission denied"):
        await call("read", tree, path="mine")


@pytest.mark.parametrize(
    "name",
    [
        ".git/config", ".env", ".env.production", "server.pem", "a.KEY", ".netrc", "id_rsa", "id_ed25519.bak",
        "credentials.json",
        "aws-credentials.json", "client_secrets.yaml", "prodPasswords.txt", ".ssh/config", ".aws/x",
        ".config/gcloud/y", "credentials", "authorized_keys",
    ],
)  # fmt: skip
async def test_read_refuses_files_that_hold_secrets(tree: Path, name: str) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("hunter2")
    with pytest.raises(ToolError, match="is not read"):
        await call("read", tree, path=name)


@pytest.mark.parametrize(
    "name",
    ["secretary.txt", "secrets.py", "id_mapping.py", ".env.example", "keys.py", "id_rsa.pub", "monkey.py"],
)
async def test_read_reads_files_that_only_sound_like_it(tree: Path, name: str) -> None:
    (tree / name).write_text("fine")
    assert "fine" in await call("read", tree, path=name)


async def test_read_is_not_led_to_a_secret_by_a_harmless_name(tree: Path) -> None:
    (tree / ".env").write_text("KEY=hunter2")
    (tree / "notes.txt").symlink_to(".env")
    with pytest.raises(ToolError, match="is not read"):
        await call("read", tree, path="notes.txt")
    text = await call("grep", tree, pattern="hunter2")
    assert "KEY" not in text
    assert "2 files that may hold credentials" in text


# --- grep ------------------------------------------------------------------------------------


async def test_grep_answers_with_path_line_and_text(tree: Path) -> None:
    text = await call("grep", tree, pattern=r"\bmain\b")
    assert text.splitlines() == [
        "README.md:2: main thing",
        "src/app.py:4: def main():",
        "src/deep/util.ts:1: export const main = 1;",
    ]


async def test_grep_narrows_by_glob_path_case_and_literal(tree: Path) -> None:
    assert "src/deep/util.ts" in await call("grep", tree, pattern="main", glob="*.{ts,tsx}")
    assert "README" not in await call("grep", tree, pattern="main", path="src")
    assert "README.md:1" in await call("grep", tree, pattern="TITLE", ignore_case="true")
    assert "src/app.py:4: def main():" in await call("grep", tree, pattern="main():", literal=True)
    assert "app.py:4" in await call("grep", tree, pattern="main", path="src/app.py")


async def test_grep_shows_context_around_matches(tree: Path) -> None:
    (tree / "c.txt").write_text("1\n2\nhit\n4\n5\n6\n7\nhit\n9\n")
    text = await call("grep", tree, pattern="hit", path="c.txt", context=1)
    assert text.splitlines() == [
        "c.txt-2- 2", "c.txt:3: hit", "c.txt-4- 4", "--", "c.txt-7- 7", "c.txt:8: hit", "c.txt-9- 9",
    ]  # fmt: skip


async def test_grep_counts_the_matches_it_does_not_show(tree: Path) -> None:
    (tree / "many.txt").write_text("needle\n" * 1_303)
    text = await call("grep", tree, pattern="needle", limit=100)
    assert text.count("many.txt:") == 100
    assert "... 1,203 more matches in 1 files; narrow the pattern" in text


async def test_grep_cuts_long_lines_around_the_match(tree: Path) -> None:
    (tree / "min.js").write_text("a" * 9_000 + "needle" + "b" * 9_000)
    text = await call("grep", tree, pattern="needle")
    assert "needle" in text
    assert "more characters" in text
    assert len(text) < 500


@pytest.mark.parametrize("pattern", ["(", "*x", "[a", "(?P<x"])
async def test_grep_reports_a_broken_pattern(tree: Path, pattern: str) -> None:
    with pytest.raises(ToolError, match="pattern must be a valid regular expression"):
        await call("grep", tree, pattern=pattern)


async def test_grep_gives_up_on_a_pattern_that_never_ends_and_keeps_the_loop_alive(tree: Path) -> None:
    (tree / "evil.txt").write_text("a" * 5_000 + "b\n")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.lowlevel.checkpoint()
            ticks += 1

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        with pytest.raises(ToolError, match="nested repeats"):
            await call("grep", tree, pattern=r"(a|aa)+$", path="evil.txt")
        group.cancel_scope.cancel()
    assert ticks > 1_000


async def test_grep_leaves_out_binary_files_and_links_that_lead_out(tree: Path) -> None:
    (tree / "blob").write_bytes(b"main\0main")
    (tree / "out").symlink_to(tree.parent / "outside.txt")
    text = await call("grep", tree, pattern="not yours|blob|main.*main")
    assert text.startswith("no line below '.' matches")
    assert "1 binary files" in text


async def test_ignored_files_are_left_out_told_of_and_found_on_request(tree: Path) -> None:
    (tree / ".gitignore").write_text("dist/\n*.log\n!keep.log\n")
    (tree / "src" / ".gitignore").write_text("generated.py\n")
    for name in ("dist/a.txt", "x.log", "keep.log", "src/generated.py", "node_modules/m/i.js", ".git/HEAD"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("zebra\n")
    assert await call("grep", tree, pattern="zebra") == "keep.log:1: zebra"
    everywhere = await call("grep", tree, pattern="zebra", include_ignored=True)
    assert everywhere.count("zebra") == 6
    assert "include_ignored=true" in await call("find", tree, pattern="generated.py")
    assert "dist/a.txt:1" in await call("grep", tree, pattern="zebra", path="dist", include_ignored=True)


# --- find ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.py", ["src/app.py"]),
        ("*.{py,ts}", ["src/app.py", "src/deep/util.ts"]),
        ("src/**/*", ["src/app.py", "src/deep/", "src/deep/util.ts"]),
        ("**/*.ts", ["src/deep/util.ts"]),
        ("src/*", ["src/app.py", "src/deep/"]),
        ("./src/deep/", ["src/deep/"]),
        ("src", ["src/"]),
        ("**", ["README.md", "src/", "src/app.py", "src/deep/", "src/deep/util.ts"]),
    ],
)
async def test_find_understands_globs(tree: Path, pattern: str, expected: list[str]) -> None:
    assert (await call("find", tree, pattern=pattern)).splitlines() == expected


async def test_find_filters_by_type_and_refuses_others(tree: Path) -> None:
    assert (await call("find", tree, pattern="*", type="folder")).splitlines() == ["src/", "src/deep/"]
    with pytest.raises(ToolError, match="type must be one of: any, file, folder; got 'dir'"):
        await call("find", tree, pattern="*", type="dir")


async def test_find_does_not_enter_a_loop_of_links(tree: Path) -> None:
    (tree / "src" / "again").symlink_to(tree)
    assert (await call("find", tree, pattern="app.py")).splitlines() == ["src/app.py"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
async def test_find_names_folders_it_could_not_list(tree: Path) -> None:
    (tree / "locked").mkdir(mode=0)
    assert "could not be listed: locked" in await call("find", tree, pattern="*.py")


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_a_crowded_folder_is_listed_and_searched_within_bounds(tree: Path, count: int) -> None:
    crowd = tree / "crowd"
    crowd.mkdir()
    descriptor = os.open(crowd, os.O_RDONLY)
    for number in range(count):
        os.close(os.open(f"f{number:06d}", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    listed = await call("ls", tree, path="crowd")
    assert f"{count:,} entries" in listed.splitlines()[0]
    assert listed.splitlines()[-1] == f"... {count - 500:,} more entries; use find with a pattern"
    found = await call("find", tree, pattern="f0*", limit=10)
    assert found.splitlines()[-1] == f"... {count - 10:,} more; narrow the pattern or raise limit"


# --- ls --------------------------------------------------------------------------------------


async def test_ls_shows_folders_sizes_and_links(tree: Path) -> None:
    (tree / "link").symlink_to("README.md")
    assert (await call("ls", tree)).splitlines() == [
        ".: 3 entries", "src/", "README.md  19 bytes", "link -> README.md",
    ]  # fmt: skip


async def test_ls_of_a_file_or_a_missing_folder_is_told(tree: Path) -> None:
    with pytest.raises(ToolError, match="not a folder; use read"):
        await call("ls", tree, path="README.md")
    with pytest.raises(ToolError, match="near: 'src'"):
        await call("ls", tree, path="srd")


# --- all -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", FILE_TOOLS)
async def test_a_nul_byte_and_a_loop_of_links_are_refused(tree: Path, tool: str) -> None:
    (tree / "loop").symlink_to("loop")
    for path in ("a\0b", "loop"):
        with pytest.raises(ToolError):
            await call(tool, tree, path=path, pattern="x")


@pytest.mark.parametrize("tool", FILE_TOOLS)
async def test_unknown_keys_are_named_and_unset_ones_ignored(tree: Path, tool: str) -> None:
    (spec,) = file_tools(str(tree), (tool,))
    arguments = {
        "path": "." if tool != "read" else "README.md",
        "pattern": "main",
        "limit": "",
        "nonsense": 1,
    }
    output = await spec.execute(arguments, CONTEXT)
    unknown = ["nonsense"] if tool in ("grep", "find") else ["pattern", "nonsense"]
    assert output.details["ignored_parameters"] == unknown


async def test_a_cancelled_search_ends_at_once(tree: Path) -> None:
    (tree / "evil.txt").write_text("a" * 5_000 + "b\n")
    with anyio.move_on_after(0.2) as scope:
        await call("grep", tree, pattern=r"(a|aa)+$", path="evil.txt")
    assert scope.cancelled_caught
