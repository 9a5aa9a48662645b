"""Losses: reconstruction, metric, perceptual."""
