"""What decides and drives a run: a pure scheduler, its driver, and the supervisor of a process."""
