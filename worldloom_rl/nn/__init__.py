"""Modules over tensors: weights, but no keys."""
