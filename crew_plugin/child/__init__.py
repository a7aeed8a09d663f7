"""Sessions in worker processes: the engine's half of a session runs there, all else in the supervisor."""
