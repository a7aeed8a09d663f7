"""Print what is made from the settings: `python -m crew_plugin.config page` or `schema`."""

import sys

from crew_plugin.config.document import configuration_page, json_schema

if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) == 2 else ""
    texts = {"page": configuration_page, "schema": json_schema}
    if wanted not in texts:
        sys.exit("say what to print: " + " or ".join(texts))
    print(texts[wanted]().rstrip("\n"))
