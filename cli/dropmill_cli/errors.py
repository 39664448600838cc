"""What a command can't do, said to the user without a traceback."""

import click


class CommandError(click.ClickException):
    """The command can't do what was asked: the message says what happened and what to do. Exit code 2."""

    exit_code = 2
