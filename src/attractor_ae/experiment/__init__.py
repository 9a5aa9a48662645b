"""Experiments: config, run folder, fit, evaluate, sweep, suites, reproduce, convert."""
