"""Data sets and pictures: what is read, how it is prepared, how it is varied in training."""
