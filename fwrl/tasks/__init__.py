"""Supervised sequence tasks: what each makes is tokens and, where something is asked, targets."""
