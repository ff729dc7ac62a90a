"""What keys and values of labels are like, and of taints: as the API server asks it of a Node."""

from __future__ import annotations

LONGEST = 63
LONGEST_PREFIX = 253
_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
KEY = f"({_DOMAIN}([.]{_DOMAIN})*/)?{_NAME}"
"""What a label's key is like, its prefix of at most :data:`LONGEST_PREFIX` characters."""
VALUE = f"({_NAME})?"
"""What a label's value is like."""

KEY_RULE = (
    f"a label's key is 1 to {LONGEST} of A-Z, a-z, 0-9, -, _ and . with a letter or digit at both ends; before it a DNS name of at"
    f" most {LONGEST_PREFIX} characters and / may stand"
)
VALUE_RULE = (
    f"a label's value is empty or up to {LONGEST} of A-Z, a-z, 0-9, -, _ and . with a letter or digit at both ends"
)
