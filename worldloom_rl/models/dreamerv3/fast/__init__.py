"""DreamerV3's filter and imagination in less time; they take the parts of the model that they use."""
