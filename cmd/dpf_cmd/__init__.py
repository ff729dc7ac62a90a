"""The processes: a module each, with its flags and what it starts. No logic."""
