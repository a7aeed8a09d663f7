"""What binds the crew into its hosts: one package of hook implementations for each host."""
