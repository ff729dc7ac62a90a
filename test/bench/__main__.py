"""``make bench`` (``ONLY=name`` for one): measures, and prints one JSON object per line; progress goes to standard error."""

from __future__ import annotations

import argparse
import asyncio
import sys
import traceback

from dpf.runtime import log
from test.bench import admission, bfb, framework, isolation, plan, system, upkeep

BENCHES = {
    "reconcile": framework.reconcile,
    "cache": framework.cache,
    "restart": framework.cache,
    "provision": system.fleet,
    "one": system.one,
    "footprint": system.footprint,
    "bfb": bfb.bfb,
    "isolation": isolation.isolation,
    "rest": upkeep.upkeep,
    "rollout": upkeep.upkeep,
    "admission": admission.admission,
    "plan": plan.plan,
}


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m test.bench", description=__doc__)
    parser.add_argument("--only", choices=BENCHES, help="one bench alone")
    only = parser.parse_args().only
    log.configure("warning", "console")
    failed = 0
    for bench in [BENCHES[only]] if only else dict.fromkeys(BENCHES.values()):
        try:
            results = asyncio.run(bench())
        except Exception:  # noqa: BLE001  (whatever it is, the others are measured all the same)
            traceback.print_exc()
            failed = 1
            continue
        for result in results:
            sys.stdout.write(result.line() + "\n")
            sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main())
