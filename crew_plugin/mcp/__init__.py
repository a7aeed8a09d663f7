"""MCP servers for sessions: their connections, their tools, what their results look like.

Knows no host. Only `protocol` imports the `mcp` package, so that both of its major versions,
between which hosts are divided, need one place that tells them apart.
"""
