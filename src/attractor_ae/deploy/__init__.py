"""Model files: a calibrated detector in one file, and verdicts on image files."""
