"""What a person types, one file a command. Nothing heavy is imported before it is needed: help answers at once."""
