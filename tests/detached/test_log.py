"""The log of a detached supervisor."""

import io
import subprocess
import sys
from pathlib import Path

from crew_plugin.detached.log import BoundedLog, CleanStream, shorten
from crew_plugin.redact import Redactor


def lines(count: int) -> bytes:
    return b"".join(b"line %06d\n" % n for n in range(count))


def test_a_log_that_is_too_large_loses_its_older_half_and_says_so(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_bytes(lines(10_000))
    size = log.stat().st_size

    dropped = shorten(log, 20_000)

    said, *kept = log.read_bytes().splitlines(keepends=True)
    assert said == b"... %s older bytes were dropped\n" % f"{dropped:,}".encode()
    assert b"".join(kept) == lines(10_000)[dropped:]
    assert dropped + len(b"".join(kept)) == size
    assert log.stat().st_size < 20_000
    assert shorten(log, 20_000) == 0


def test_a_process_that_goes_on_writing_appends_to_the_shortened_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_bytes(lines(10_000))
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [sys.executable, "-c", "input(); print('after', flush=True)"],
            stdin=subprocess.PIPE,
            stdout=output,
        ) as writer,
    ):
        with BoundedLog(log, 20_000):
            pass
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.close()
        writer.wait(60)

    assert log.read_bytes().endswith(b"line 009999\nafter\n")
    assert b"\0" not in log.read_bytes()


def test_secrets_do_not_reach_the_log() -> None:
    log = io.StringIO()
    stream = CleanStream(log, Redactor({"MY_TOKEN": "s3cr3t-value"}))

    print("using s3cr3t-value", file=stream)
    stream.flush()

    assert log.getvalue() == "using [redacted: value of MY_TOKEN]\n"
