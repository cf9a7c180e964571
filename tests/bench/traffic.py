"""Prints how many bytes of layers were pulled from and pushed to a registry since a place in its log, and how many requests it
answered.

usage: traffic.py LOG OFFSET STORAGE

A layer is what some manifest in the registry's storage calls one, by a media type of archives; configurations, manifests and
what caches keep beside layers are none. A push is what was sent: mounts and questions are none.
"""

import json
import pathlib
import re
import sys

PULL = re.compile(r'"GET /v2/\S+/blobs/(sha256:[0-9a-f]{64})[? ].*?" 20[06] (\d+)')
PUSH = re.compile(r'"PUT /v2/\S+/blobs/uploads/\S*digest=sha256(?::|%3A)([0-9a-f]{64})\S* HTTP[^"]*" 201')
ANSWER = re.compile(r"http\.response\.duration=")
MANIFEST_BYTES_MAX = 4 << 20


def layers(blobs):
    """Returns the digests of all layers."""
    found = set()
    for file in blobs.glob("*/*/data"):
        if file.stat().st_size > MANIFEST_BYTES_MAX or file.open("rb").read(1) != b"{":
            continue
        try:
            manifest = json.loads(file.read_bytes())
        except ValueError:
            continue
        for layer in manifest.get("layers", []) + manifest.get("manifests", []):
            if "tar" in layer.get("mediaType", ""):
                found.add(layer["digest"])
    return found


def main():
    log, offset, storage = sys.argv[1:]
    blobs = pathlib.Path(storage, "docker/registry/v2/blobs/sha256")
    with open(log, "rb") as file:
        file.seek(int(offset))
        text = file.read().decode(errors="replace")
    known = layers(blobs)
    pulled = sum(int(size) for digest, size in PULL.findall(text) if digest in known)
    pushed = {hexadecimal for hexadecimal in PUSH.findall(text) if f"sha256:{hexadecimal}" in known}
    sent = sum((blobs / digest[:2] / digest / "data").stat().st_size for digest in pushed)
    print(pulled, sent, len(ANSWER.findall(text)))


main()
