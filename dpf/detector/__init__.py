"""Tells node feature discovery which cards a host has, and whether its bridge is as they need it."""
