"""The `dcops` command."""
