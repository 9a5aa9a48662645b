"""``python -m attractor_ae``, and the command ``attractor-ae``."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C is one exit code even while it is imported."""
    try:
        from attractor_ae.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
