"""Run pipelines on this machine with kfp.local."""
