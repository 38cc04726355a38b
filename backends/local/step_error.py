"""The part of a step's output that says why it failed."""

import re
import signal
from collections.abc import Sequence

# The last line that names an exception; what follows it belongs to its message.
_ERROR = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)): (.*)$")
# A line of Kubeflow's launcher or driver: severity and day, time, thread, file.
_GLOG = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^\]]*\] ?(.*)")
# Lines of Argo's executor around the program.
_ARGO = re.compile(r"time=\S+ level=\w+ .*argo=true.*|Error: exit status \d+")
_EXIT = re.compile(r"exit status (\d+)")
# What kfp's executor says of its own work, and the JSON after it.
_EXECUTOR = re.compile(r"\[KFP Executor |[\s{}]|$")


def error_in(lines: Sequence[str]) -> str:
    """Return the message of the last exception in a step's output, on one line; empty for none."""
    for index in range(len(lines) - 1, -1, -1):
        if match := _ERROR.match(lines[index]):
            return " ".join([match[2], *(line.strip() for line in lines[index + 1 :] if line.strip())])
    return ""


def killed(exit_code: int) -> str:
    """Say which signal ended a step; empty if none did.

    Args:
        exit_code: As a shell gives it: 128 and the signal's number.
    """
    try:
        name = signal.Signals(exit_code - 128).name
    except ValueError:
        return ""
    guess = ", most likely because memory ran out" * (name == "SIGKILL")
    return f"the step was killed by {name} (exit code {exit_code}){guess}"


def error_in_pod(lines: Sequence[str]) -> str:
    """Return why a pod of Kubeflow failed, from its log, on one line; empty where it doesn't say.

    Where launcher or driver failed, that is their last fatal line. Where the program failed, it is the
    message of its exception or else its last line, without what launcher and Argo write around it.
    """
    fatal, program = "", []
    in_fatal = False
    for line in lines:
        if match := _GLOG.fullmatch(line):
            in_fatal = match[1] == "F"
            fatal = match[2] if in_fatal else fatal
        elif _ARGO.fullmatch(line):
            in_fatal = False
        elif in_fatal:
            fatal += f" {line.strip()}"
        else:
            program.append(line)
    fatal = " ".join(fatal.split()).removeprefix("failed to execute component: ")
    status = _EXIT.fullmatch(fatal)
    if fatal and not status:
        return fatal
    if status and status[1] == "137":
        return "the program was killed (exit status 137), most likely because it ran out of memory"
    said = [line.strip() for line in program if not _EXECUTOR.match(line)]
    return (
        error_in(program)
        or (said[-1] if said else "")
        or (f"the program ended with {fatal}" if fatal else "")
    )
