"""A command line that was typed wrongly, and advice in its words."""

import re
import shlex

from minicpmv.errors import AS_VIDEO


class UsageError(ValueError):
    """What was typed cannot be meant; the command exits with 2."""


def with_command(message: str, command: str = "minicpmv ask --video") -> str:
    """The message with `command`, and the file it names, where it advises to show a video."""
    named = re.match(r"Image '([^']+)' ", message)
    file = shlex.quote(named[1]) if named else "FILE"
    return message.replace(AS_VIDEO, f"{command} {file}")
