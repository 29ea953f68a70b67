"""`fathom eval` alone, mounted as the command line mounts it; for tests that need a process."""
import sys

import typer

from fathom.errors import UserError
from fathom.eval.command import HELP, make_command
from fathom.eval.runner import Opened


def open_local(path):
    return Opened("echo", lambda messages, max_tokens, temperature: messages[-1]["content"][:50])


app = typer.Typer(pretty_exceptions_enable=False)
app.command(help=HELP)(make_command(open_local, lambda: ""))

if __name__ == "__main__":
    try:
        sys.exit(app(standalone_mode=False))  # an interrupted command returns 130
    except UserError as error:
        print(error.one_line(), file=sys.stderr)
        sys.exit(2)
