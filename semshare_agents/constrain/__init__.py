"""Constrained decoding: answers that keep to a JSON schema, and tool calls that keep to the tool's."""
