"""Finding, for each prompt token, past KV that can serve it."""
