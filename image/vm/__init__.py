"""Boots the live image in QEMU over the network, against an orchestrator of its own: `image/boot`, `make boot`."""
