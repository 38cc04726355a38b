"""Deploy, shift and roll back one endpoint on and on: a step among several that do so at the same time.

Run as `python -m tests.flowparts.deploy.writer SEED LEASE_SECONDS`. Each line of its output is an operation
and how it ended.
"""

import random
import sys

from flowparts.deploy import _lease
from flowparts.deploy.targets import kubernetes

MODELS = [f"s3://models/churn/{number}" for number in range(4)]
OPTIONS = {"image": "registry.example/flowparts-serving:0.1.0", "replicas": 1, "timeout_seconds": 10.0}


def main(seed: int, lease_seconds: float) -> None:
    _lease.SECONDS, _lease._RENEW_SECONDS, _lease._LOOK_SECONDS = lease_seconds, lease_seconds / 5, 0.02
    chance = random.Random(seed)
    while True:
        wait = chance.choice([0.0, 5.0])
        try:
            made = kubernetes.deploy(
                chance.choice(MODELS),
                "churn",
                percent=chance.choice([0, 50, 100]),
                digest="0123456789abcdef",
                wait_seconds=wait,
                **OPTIONS,
            )
            print("deployed", flush=True)
            if made.previous_revision:
                change = chance.choice(
                    [kubernetes.rollback, lambda endpoint: kubernetes.shift(endpoint, 100)]
                )
                change(made)
                print("changed", flush=True)
        except ValueError as error:
            print(f"refused: {error}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
