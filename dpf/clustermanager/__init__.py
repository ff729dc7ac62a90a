"""Cluster managers: who makes a DPUCluster real."""
