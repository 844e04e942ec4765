"""Threads for what blocks, and who is waiting."""
