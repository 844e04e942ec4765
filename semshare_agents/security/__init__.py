"""Secrets and who may read them: encryption, the names key, file permissions."""
