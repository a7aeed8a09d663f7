"""The Bub host: binds the crew into a Bub process."""
