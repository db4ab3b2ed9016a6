"""The official code's checkpoints: what their tensors are called and how sizes are read from them."""
