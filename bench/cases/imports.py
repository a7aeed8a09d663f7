"""What the plugin adds to a host that has loaded its own parts.

Usage: imports.py. Prints {"bub": ms, "adds": ms, "register": ms}: CPU time of importing Bub and
loading its own hooks, of importing the plugin's entry point after that, and of calling it.
"""

import json
import os
import tempfile
import time


def main() -> dict[str, float]:
    start = time.process_time()
    from bub.framework import BubFramework

    framework = BubFramework()
    framework.load_builtin_hooks()
    loaded = time.process_time()
    from crew_hooks.bub import plugin

    imported = time.process_time()
    plugin(framework)
    registered = time.process_time()
    return {
        "bub": (loaded - start) * 1000,
        "adds": (imported - loaded) * 1000,
        "register": (registered - imported) * 1000,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="crew-bench-") as folder:
        os.environ |= {"BUB_HOME": folder, "BUB_MODEL": "openai:scripted", "BUB_API_KEY": "test"}
        print(json.dumps(main()))
