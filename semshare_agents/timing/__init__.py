"""How long things take, and whether others were in the way."""
