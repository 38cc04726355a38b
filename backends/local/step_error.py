"""Find the reason for a failure in a step's output."""

import re
import signal
from collections.abc import Sequence
from itertools import takewhile

# The last line with an exception; the lines after it belong to its message, up to a log of kfp's executor: a
# container's standard output, which that goes to, may come after its standard error.
_ERROR = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)): (.*)$")
# A line of Kubeflow's launcher or driver: severity and day, time, thread, file.
_GLOG = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^\]]*\] ?(.*)")
# Lines of Argo's executor around the program.
_ARGO = re.compile(r"time=\S+ level=\w+ .*argo=true.*|Error: exit status \d+")
_EXIT = re.compile(r"exit status (\d+)")
# The log of kfp's executor about itself, and the JSON after it.
_EXECUTOR = re.compile(r"\[KFP Executor |[\s{}]|$")


def error_in(lines: Sequence[str]) -> str:
    """Return the message of the last exception in a step's output, on one line; empty for none."""
    for index in range(len(lines) - 1, -1, -1):
        if match := _ERROR.match(lines[index]):
            rest = takewhile(lambda line: not line.startswith("[KFP Executor "), lines[index + 1 :])
            return " ".join([match[2], *(line.strip() for line in rest if line.strip())])
    return ""


def killed(exit_code: int) -> str:
    """Return which signal ended a step; empty if none did.

    Args:
        exit_code: Exit code in a shell's form: 128 plus the signal's number.
    """
    try:
        name = signal.Signals(exit_code - 128).name
    except ValueError:
        return ""
    guess = ", most likely because memory ran out" * (name == "SIGKILL")
    return f"the step was killed by {name} (exit code {exit_code}){guess}"


def error_in_pod(lines: Sequence[str]) -> str:
    """Return why a Kubeflow pod failed, from its log, on one line; empty if it doesn't say.

    If the launcher or driver failed, it is their last fatal line. If the program failed, it is the message of
    its exception or its last line, without the launcher's and Argo's lines.
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
