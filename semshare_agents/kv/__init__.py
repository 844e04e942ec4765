"""KV: what it looks like, where it lies, how it is laid out anew, moved and packed. No other folder knows its axes."""
