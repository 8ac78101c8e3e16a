"""Trainings and trained agents from a program: all that the commands do, in one import."""
