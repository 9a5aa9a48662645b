"""The method: read autoencoder, spaces, masks, dynamics, heads, scores, detector."""
