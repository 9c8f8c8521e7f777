"""Judges of pictures in numbers: features, Fréchet distances, and how far those would move with other pictures."""
