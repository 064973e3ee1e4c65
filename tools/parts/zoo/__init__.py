"""Models for `check_real_models.py`: how they are built, and what is made of each."""
