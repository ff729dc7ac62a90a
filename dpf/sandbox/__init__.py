"""The whole system on one machine without a DPU: control planes, a fleet of simulated hosts and cards, a supervisor."""
