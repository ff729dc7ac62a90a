"""Simulated host nodes and cards: one process (``python -m dpf.sandbox.fleet``) for all of them.

Towards Kubernetes a host is a Node whose pods run (``hosts``, ``pods``); towards ``dms`` a card is a small HTTP API on a unix
socket (``cardapi``). What the fleet knows of a card is what was flashed onto it and what it should do at boot (``cards``,
``cloudinit``, ``kubelet``); everything else it learns from the API servers, like the machines it stands for.
"""
