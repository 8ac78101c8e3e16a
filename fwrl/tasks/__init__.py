"""Supervised sequence tasks: what each makes is tokens and, where something is asked, targets."""

# The target where nothing is asked; torch's cross entropy skips it.
NOT_ASKED = -100
