"""The official code's checkpoints: what their arrays are called and how sizes are read from them."""
