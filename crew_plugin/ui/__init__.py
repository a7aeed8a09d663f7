"""What people and models see of runs. Everything here reads the store, never the engine."""
