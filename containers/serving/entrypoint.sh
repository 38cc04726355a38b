#!/bin/sh
# Options start the server, and so does nothing or `serve`, which SageMaker says; anything else is a command,
# because a step of a pipeline may run here too.
case "${1:-serve}" in
serve | -*) exec python -m flowparts.serving "$@" ;;
*) exec "$@" ;;
esac
