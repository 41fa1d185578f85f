"""What is known of the items that an enhanced tile shows."""

from collections.abc import Mapping
from typing import Any


def hidden_share(known: Mapping[str, Any]) -> float:
    """Return the share (0 to 1) of what a tile shows that masks of all its items hide.

    `known` is what the tile's record keeps. Shares of items have six decimals, so that their sum
    may miss 1 by some millionths; they are all 0 where a tile shows nothing.
    """
    empty, fetched = known.get("holes", (0, 1))
    return round(1 - sum(known["shares"]), 5) if empty < fetched else 0.0
