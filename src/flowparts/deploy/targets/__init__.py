"""The deployment targets, a module each; `flowparts.deploy` says what they offer."""
