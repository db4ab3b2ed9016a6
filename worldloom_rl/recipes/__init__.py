"""Recipes: one readable script a result."""
