"""``python -m attractor_ae``."""

from attractor_ae.cli import main

if __name__ == "__main__":
    main()
