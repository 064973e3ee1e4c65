"""Attacks of `attack.py`: cases by kind, folders of results that are changed, and what runs and judges them."""
