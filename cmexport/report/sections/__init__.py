"""The parts of the report: one file each, a function from the material to a `view.Section`."""
