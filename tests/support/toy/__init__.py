"""A whole target in one folder: torch's own file of the captured program."""
