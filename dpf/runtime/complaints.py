"""Why a cluster can't be used, in words that name what to mend. The usual faults of a kubeconfig look alike from afar."""

from __future__ import annotations

import ssl
from datetime import datetime

from dpf.runtime.errors import Unauthorized
from dpf.runtime.kubeconfig import Kubeconfig
from dpf.runtime.meta import now


def complaint(error: Exception, kubeconfig: Kubeconfig) -> str:
    """What went wrong when a cluster was asked with these credentials; no part of them is in it."""
    server = kubeconfig.server
    if isinstance(error, Unauthorized):
        ended = _ended(kubeconfig.cert)
        if ended is not None:
            return f"{server} does not let us in: the client certificate of the kubeconfig ended at {ended:%Y-%m-%d %H:%M} UTC"
        return f"{server} does not let us in: it does not know the kubeconfig's credentials, or they have ended"
    if isinstance(error.__cause__, ssl.SSLCertVerificationError):
        why = error.__cause__.verify_message
        return f"{server} is not the cluster that the kubeconfig's certificate authority vouches for: {why}"
    return str(error) or type(error).__name__


def _ended(pem: bytes) -> datetime | None:
    """When the certificate ended; None if there is none, it holds still, or that cannot be read."""
    if not pem:
        return None
    from dpf.runtime.certs import expires

    try:
        end = expires(pem)
    except ValueError:
        # TLS takes some that are not read here.
        return None
    return end if end < now() else None
