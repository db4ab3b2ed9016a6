"""Small verbs that recipes call."""
