"""Write the tool schemas beside this file: `python -m crew_tools.schemas [--docs PATH]`."""

import argparse
from pathlib import Path

from crew_tools.schemas.generate import all_schemas, rendered
from crew_tools.schemas.reference import reference


def main() -> None:
    """Write every schema and, where asked to, the page of documentation."""
    parser = argparse.ArgumentParser(prog="python -m crew_tools.schemas", description=__doc__)
    parser.add_argument("--docs", type=Path, help="also write the reference of the tools to this file")
    wanted = parser.parse_args()
    folder = Path(__file__).resolve().parent
    for name, schema in all_schemas().items():
        (folder / f"{name}.json").write_text(rendered(schema), encoding="utf-8")
    if wanted.docs is not None:
        wanted.docs.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
