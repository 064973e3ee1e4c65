"""Whole files for `fuzz.py`, and how it damages them."""
