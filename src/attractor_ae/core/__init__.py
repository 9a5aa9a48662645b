"""The method of docs/protocol.md, which docstrings cite as PROTOCOL.

Reading order: autoencoder, spaces, masks, dynamics, heads, scores, detector.
"""
