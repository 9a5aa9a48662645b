"""What the tests of the terminal share."""

from typer.testing import CliRunner

from attractor_ae.cli import app
from attractor_ae.cli._terminal import err, out


def options(settings):
    return [part for text in settings for part in ("--set", text)]


def invoke(*arguments, width=200):
    """Run a command in a terminal of that width."""
    out.width = err.width = width
    return CliRunner().invoke(app, [str(a) for a in arguments])


def error_line(result):
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    return result.stderr
