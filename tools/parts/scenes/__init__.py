"""Scenes whose truth is known, drawn from a description, and networks that are trained on them."""
