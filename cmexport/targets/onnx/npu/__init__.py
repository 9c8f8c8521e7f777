"""Files for NPUs that compute in whole numbers: one step per activation tensor, a pair around every operation.

Qualcomm's HTP takes a graph whole or in pieces: whatever stands between pairs it computes itself, the rest goes to the
CPU and back. Steps per channel, which the other files have on their activations, are among what it refuses.
"""
