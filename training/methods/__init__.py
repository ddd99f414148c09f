"""What several recipes use, or what is a lesson of its own; imports `data` and `export`, and no recipe."""
