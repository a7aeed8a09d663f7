"""What is behind `crew_agent` and `crew_agent_result`."""
