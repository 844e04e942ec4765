"""What operators need: checks of a machine, its settings and its memory."""
