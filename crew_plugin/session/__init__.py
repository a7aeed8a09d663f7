"""One agent session: its prompt, its result contract, its limits, its transcript and its mail."""
