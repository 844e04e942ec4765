"""Starting an adapter, and seeing to a memory: audits, the doctor."""
