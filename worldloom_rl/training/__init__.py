"""Everything a run is: the loop, its recipe, clock and source of rows; its state, checkpoints and directory."""
