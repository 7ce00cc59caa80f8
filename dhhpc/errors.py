"""The one error type that a command line shows to its user."""


class DhhpcError(Exception):
    """A failure that the user can mend.

    The message is one line that names the file or the option, the value found there, and the mend. The
    command line prints it on stderr and exits with 1; anything else that escapes is a defect and keeps its
    traceback.
    """
