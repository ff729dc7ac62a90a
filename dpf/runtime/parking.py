"""Work for clusters that are away: it is parked until the circuit of its cluster closes.

A circuit may close while a reconcile that found it open is on its way out, and says so once: whoever parks says since when it has
been looking, and is not parked if that was before the circuit closed.
"""

from __future__ import annotations

from collections import defaultdict

from dpf.runtime.meta import Key


class Parking:
    """The keys that are parked, by cluster (``namespace/name``). Moments are seconds of the event loop's clock."""

    def __init__(self) -> None:
        self._parked: defaultdict[str, set[Key]] = defaultdict(set)
        self._closed_at: dict[str, float] = {}

    def park(self, cluster: str, key: Key, since: float) -> bool:
        """Parks a key that found the cluster away.

        :param since: when it began to look.
        :return: False if the circuit has closed meanwhile, so that nobody will say so again.
        """
        if self._closed_at.get(cluster, float("-inf")) >= since:
            return False
        self._parked[cluster].add(key)
        return True

    def closed(self, cluster: str, now: float) -> set[Key]:
        """The cluster's circuit has closed; gives what was parked for it, which is not any more."""
        self._closed_at[cluster] = now
        return self._parked.pop(cluster, set())

    def opened(self, cluster: str) -> None:
        """The cluster's circuit has opened, or the cluster is gone."""
        self._closed_at.pop(cluster, None)

    def forget(self, key: Key) -> None:
        """The key is looked at now, or gone: it is parked for no cluster any more."""
        for cluster, parked in list(self._parked.items()):
            parked.discard(key)
            if not parked:
                del self._parked[cluster]
