"""The precision plan: which weights and activations are stored in how many bits, the same for every target."""
