"""The one model server: every deployment target's protocol in front of one model directory.

`python -m flowparts.serving --model DIR` starts it; `--help` lists the options.
"""

__all__ = ["model_files", "saved_model_files", "server_settings"]
