"""Disturbances of `crash_test.py`, and the runs that are held against each other."""
