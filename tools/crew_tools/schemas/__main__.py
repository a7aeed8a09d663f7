"""Write the tool schemas beside this file: `python -m crew_tools.schemas`."""

from pathlib import Path

from crew_tools.schemas.generate import all_schemas, rendered


def main() -> None:
    """Write every schema."""
    folder = Path(__file__).resolve().parent
    for name, schema in all_schemas().items():
        (folder / f"{name}.json").write_text(rendered(schema), encoding="utf-8")


if __name__ == "__main__":
    main()
