"""Provenance of the running code."""

import os
import subprocess

UNKNOWN = "unknown"


def git_commit() -> str:
    """Return the git commit of the running code.

    Inside an image, which has no repository, it is the environment variable FLOWPARTS_GIT_COMMIT; elsewhere,
    the commit of the working directory. "unknown" if neither is available.
    """
    named = os.environ.get("FLOWPARTS_GIT_COMMIT", "").strip()
    if named:
        return named
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - git is found on the user's PATH
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return answer.stdout.strip()
