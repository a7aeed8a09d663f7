"""What can be said of runs by looking at what is written down."""
