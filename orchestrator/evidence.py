"""Evidence as files: each named by its own digest, so that no name from outside ever becomes a path. Never unpacked."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from pathlib import Path

from orchestrator.steps import Refusal
from orchestrator.store import StoreFailed
from orchestrator.tls import write_private

log = logging.getLogger(__name__)
GZIP_MAGIC = b"\x1f\x8b"
LIMIT_BYTES = 2**30
"""Of all evidence of one run: many times what a run's stages leave, and no full disk by one host."""
SHA256 = re.compile(r"[0-9a-f]{64}")
DRAFT = re.compile(r"[0-9a-f]{64}\.tar\.gz\.new")
"""What write_private makes first."""


class EvidenceFolder:
    """DATA/evidence/<run_id>/<sha256>.tar.gz"""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_of(self, run_id: int, sha256: str) -> Path:
        assert SHA256.fullmatch(sha256)
        return self._folder / str(run_id) / f"{sha256}.tar.gz"

    def sweep_drafts(self) -> int:
        """Remove what uploads left that a server did not live to finish; how many. Before any upload is taken."""
        drafts = [path for path in self._folder.glob("*/*") if DRAFT.fullmatch(path.name) and path.is_file()]
        size = sum(path.lstat().st_size for path in drafts)
        for path in drafts:
            path.unlink()
        if drafts:
            log.warning(
                "evidence: removed %d drafts of uploads that a server was killed in, %d bytes", len(drafts), size
            )
        return len(drafts)

    async def keep(self, run_id: int, claimed_digest: str, content: bytes) -> str:
        """Write the file unless it is there; its digest. Refuses what is no gzip, too much or not as announced."""
        return await asyncio.to_thread(self._keep, run_id, claimed_digest, content)

    def _keep(self, run_id: int, claimed_digest: str, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        if claimed_digest.lower() != digest:
            raise Refusal(422, "digest_mismatch", f"The body's SHA-256 is {digest}, not what X-Content-SHA256 says")
        if not content.startswith(GZIP_MAGIC):
            raise Refusal(422, "malformed", "Evidence must be a gzip-compressed tar")
        path = self.path_of(run_id, digest)
        if not path.exists():
            if _size_of(path.parent) + len(content) > LIMIT_BYTES:
                raise Refusal(422, "too_large", f"A run may leave {LIMIT_BYTES} bytes of evidence; this is more")
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_private(path, content)
            except OSError as problem:
                raise StoreFailed(str(problem)) from problem
        return digest


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*")) if folder.exists() else 0
