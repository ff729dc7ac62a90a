"""What the Kamaji cluster manager is started with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The same for every cluster; the defaults are v24.10's."""

    data_store: str = "default"
    """DataStore of Kamaji that control planes keep their data in."""
    replicas: int = 3
    """Pods of a control plane."""
    keepalived_image: str = "osixia/keepalived:2.0.20"
    configuration_image: str = "alpine:3.20.3"
    """Runs the shell script that writes keepalived's configuration."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets that keepalived's pods pull their images with."""
    control_plane_timeout: float = 600.0
    """Seconds after which a control plane that is not ready is called overdue."""
