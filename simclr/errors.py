"""Errors whose message is written for the person at the keyboard, and the end of a command that has printed one."""


class InputError(ValueError):
    """Something the user gave (a value, a file, a data set) cannot be used.

    The message names the thing and the remedy. The commands print it without a traceback and exit with status 1; any
    other exception is a bug of ours and keeps its traceback.
    """


class InUse(InputError):
    """Another process, on this machine or another, trains in the run directory that was asked for."""


class Refused(SystemExit):
    """The command ends after an error whose message has been printed; its code is the exit status."""


def first_line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
