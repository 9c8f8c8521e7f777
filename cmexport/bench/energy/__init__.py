"""Energy: sources behind one small interface, and the rule that turns readings into a figure or a refusal."""
