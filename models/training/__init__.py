"""Recipes as data, training by them, and checkpoints to go on from."""
