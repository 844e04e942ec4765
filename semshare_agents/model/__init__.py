"""The model: loading, fingerprint, what it supports, computing rows, moving keys, generating."""
