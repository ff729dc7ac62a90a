"""Manifests of the five kinds as nobody would write them, made from the CRDs; see ``docs/developing.md``."""
