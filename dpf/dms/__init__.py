"""``dms``: a DOCA Management Service of our own. It speaks gNMI and gNOI and drives one card through :class:`dpf.dms.card.Card`."""
