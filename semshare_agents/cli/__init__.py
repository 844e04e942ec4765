"""The `semshare` command, one file a command."""
