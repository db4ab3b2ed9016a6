"""Recipes: one readable script a paper's algorithm, and what it can be told (options)."""
