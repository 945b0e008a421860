"""The two exceptions that cross a room's border on purpose."""


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, and what would be right.

    The command line prints the message as one line and exits with 2; a page shows it as it is.
    """


class Cancelled(Exception):
    """A long computation was asked to stop and did, between two units of work."""
