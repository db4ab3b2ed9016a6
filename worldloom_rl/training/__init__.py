"""Everything a run is: the loop and its recipe, clock and source of rows; its state, checkpoints, evaluations, directory."""
