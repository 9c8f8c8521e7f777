"""Proof that an artefact draws the pictures PyTorch draws: measures, gates, inputs and the ladder of rungs."""
