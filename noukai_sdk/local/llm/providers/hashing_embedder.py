"""Vectors without a model: words and letter triples, hashed into a fixed number of dimensions.

Texts that share words or spellings are near each other; their meaning plays no part. The same text has
the same vector on every machine.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from anyio.lowlevel import checkpoint


class HashingEmbedder:
    """Create vectors of length 1, or of zeros for a text without letters and digits.

    Args:
        dimensions: The length of the vectors.
    """

    name = "offline"

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text, in order."""
        vectors: list[list[float]] = []
        for text in texts:
            vectors.append(self._vector(text))
            await checkpoint()
        return vectors

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self._dimensions
        for feature, count in Counter(_features(text)).items():
            digest = hashlib.blake2b(feature.encode(errors="replace"), digest_size=8).digest()
            number = int.from_bytes(digest, "big")
            # With a sign, features that fall on the same dimension cancel out instead of adding up.
            sign = 1 if number & 1 else -1
            vector[(number >> 1) % self._dimensions] += sign * math.sqrt(count)
        length = math.hypot(*vector)
        return [value / length for value in vector] if length else vector


def _features(text: str) -> Iterator[str]:
    for word in re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()):
        yield word
        marked = f"<{word}>"
        yield from (marked[start : start + 3] for start in range(len(marked) - 2))
