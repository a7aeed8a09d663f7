"""Build the wheel (tree -> sdist -> wheel), install it into a clean environment, run the suite there.

`python tests/wheel.py [pytest arguments]`. Nothing is fetched: the environment borrows the
dependencies of the one that runs this, but not the checkout.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

__all__ = ["build_wheel", "install_wheel", "main"]

ROOT = Path(__file__).resolve().parent.parent
OF_THE_CHECKOUT = ("test_packaging", "test_arrows", "test_wired", "test_manifest", "test_make")
"""Tests of the source tree itself, which an installed wheel does not have."""


def build_wheel(target: Path) -> Path:
    """The wheel, built from the sdist, in `target`."""
    source = target / "source"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = target.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, target: Path) -> Path:
    """The Python of a clean environment in `target` that holds the wheel."""
    venv.create(target, with_pip=False)
    python = target / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # A folder named in a .pth file is added to the path, but the .pth files in it are not read:
    # the dependencies are there, the editable install of the checkout is not.
    Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            "--force-reinstall",
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    host = target / "bin" / "bub"
    host.write_text(f"#!{python}\nfrom bub.__main__ import app\n\napp()\n", encoding="utf-8")
    host.chmod(0o755)
    return python


def main(arguments: list[str]) -> int:
    """Build, install, and run the suite with `arguments`; pytest's exit code."""
    with tempfile.TemporaryDirectory(prefix="crew-wheel-") as name:
        folder = Path(name)
        python = install_wheel(build_wheel(folder / "dist"), folder / "venv")
        suite = folder / "suite"
        for part in (
            "tests",
            "docs",
            "bench",
            "README.md",
            "CHANGELOG.md",
            "pyproject.toml",
            "plugin.toml",
            "Makefile",
        ):
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy2)(ROOT / part, suite / part) if (
                ROOT / part
            ).exists() else None
        environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(
            [
                python,
                "-m",
                "pytest",
                "-o",
                "pythonpath=",
                *(f"--ignore=tests/{name}.py" for name in OF_THE_CHECKOUT),
                *arguments,
            ],
            cwd=suite,
            env=environment,
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
