"""Where a run's code comes from."""

import os
import subprocess

UNKNOWN = "unknown"


def git_commit() -> str:
    """Return the commit of the code that runs.

    The environment variable FLOWPARTS_GIT_COMMIT says it inside an image, where no repository is; elsewhere
    git is asked about the working directory. "unknown" when neither can tell.
    """
    named = os.environ.get("FLOWPARTS_GIT_COMMIT", "").strip()
    if named:
        return named
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - git stands where the user's PATH says
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return answer.stdout.strip()
