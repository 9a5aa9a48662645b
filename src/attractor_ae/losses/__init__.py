"""Reconstruction, metric and perceptual losses (PROTOCOL, which is docs/protocol.md, section 3)."""
