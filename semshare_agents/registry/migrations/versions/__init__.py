"""The revisions; a file is frozen once it was released."""
