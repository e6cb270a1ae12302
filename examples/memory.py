#!/usr/bin/env python3
"""An agent that remembers: what it learns in one run it finds again in the next.

Run it twice, with a capability to a namespace of semantic memory:

    bin/aiosctl run --grant semantic:diary --mount ./examples:/examples -- python3 /examples/memory.py "the kettle is in the left cupboard"
    bin/aiosctl run --grant semantic:diary:read --mount ./examples:/examples -- python3 /examples/memory.py --recall "where is the kettle"

Its embedding is the simplest that there is, so that it needs no model and no network: words and
their beginnings, hashed into 64 dimensions.
"""

import hashlib
import re
import sys

sys.path.insert(0, "/aios/lib")
import aios  # noqa: E402

DIMENSIONS = 64


def embed(text):
    """Count words and what they begin with, each at a place that its hash says."""
    vector = [0.0] * DIMENSIONS
    for word in re.findall(r"\w+", text.lower()):
        for part in (word, word[:4]):
            h = int.from_bytes(hashlib.sha256(part.encode()).digest()[:4], "little")
            vector[h % DIMENSIONS] += 1.0 if h & 0x10000 else -1.0
    return vector if any(vector) else [1.0] + [0.0] * (DIMENSIONS - 1)


def main():
    args = sys.argv[1:]
    recall = "--recall" in args
    text = " ".join(a for a in args if a != "--recall") or "the kettle is in the left cupboard"
    diary = aios.Memory("diary")
    try:
        if not recall:
            print("remembered as", diary.put(text, embed(text), tags=["learned"]))
        for hit in diary.search(text, embed(text), k=3):
            print(f"{hit['score']:.4f}  {hit['text']}  (by {hit['provenance'].get('name') or 'an agent without a name'})")
    except aios.Error as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
