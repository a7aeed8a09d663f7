"""What tests and demonstrations use instead of the real thing."""
