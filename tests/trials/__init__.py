"""Trials of the gate as a whole, which take hours of a quiet machine; run by hand, and by no test."""
