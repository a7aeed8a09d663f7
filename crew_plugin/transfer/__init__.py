"""Runs as files: written in one project, checked and read in another."""
