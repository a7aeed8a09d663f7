"""Telling a person, outside of any conversation, that a background run has ended or asks something."""
