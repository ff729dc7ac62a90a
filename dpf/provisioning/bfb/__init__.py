"""BFB: images, downloaded once onto the volume that all cards' DMS share."""
