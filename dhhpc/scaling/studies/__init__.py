"""Scaling studies: what is measured, running it, and the results."""
