"""`python -m crew_plugin.cli` is `crew`."""

from crew_plugin.cli import main

if __name__ == "__main__":
    main()
