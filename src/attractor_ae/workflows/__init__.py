"""One function a command: what the terminal can do, a notebook can do."""
