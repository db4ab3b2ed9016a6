"""Stateless tensor functions: the papers' equations."""
