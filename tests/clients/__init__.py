"""Real clients against a server with a scripted model, in environments of their own: `python -m tests.clients`."""
