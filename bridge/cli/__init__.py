"""The command line for people: ``call``, ``describe``, ``show`` and ``doctor``, all around a real worker."""

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run the subcommand that ``argv`` names; gives the exit code."""
    # Imported here: a worker imports this package for the flags of `serve`, and nothing more.
    from bridge.cli.app import main as run

    return run(argv)
