"""The exit codes of all commands."""

FINISHED = 0
FAILED = 1
"""The run failed, not the user."""
MISTAKE = 2
"""The user's mistake; nothing was changed."""
STOPPED = 75
"""Stopped by a signal or a closed output, with everything saved: the same command goes on."""
INTERRUPTED = 130
"""Interrupted at once; what was not yet saved is lost."""
