"""What crosses a boundary: states, causes, events, records and specifications.

`spec` is pydantic and imported where it is needed; the rest is standard library only.
"""
