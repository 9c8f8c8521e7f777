"""The platforms that kits are made for: one file each, which says what is particular to it."""
