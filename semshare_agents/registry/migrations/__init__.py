"""Alembic's script folder: one revision a file in `versions/`, in order; CONTRIBUTING says how to add one."""
