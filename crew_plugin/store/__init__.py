"""Durable runs: the `RunStore` port and its SQLite form."""
