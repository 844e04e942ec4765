"""What is done in idle time."""
