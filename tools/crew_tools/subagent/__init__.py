"""What is behind `crew_agent`, `crew_agent_result` and `crew_agent_steer`."""
