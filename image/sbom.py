"""Writes the image's list of parts as SPDX 2.3 JSON: Debian's packages, the kernel, what came from PyPI, the agent.

The same image gives the same bytes: the time is that of the sources, and the namespace is a digest of the content.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

Part = dict[str, Any]


def debian_packages(status: str) -> Iterator[Part]:
    """A part for each installed package of dpkg's status file."""
    for paragraph in status.strip().split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if "installed" in fields.get("Status", "").split():
            yield debian_part(fields["Package"], fields["Version"], fields.get("Source"))


def debian_part(name: str, version: str, source: str | None) -> Part:
    purl = f"pkg:deb/debian/{name}@{version}?arch=amd64&distro=trixie"
    part = _part(name, version, "Organization: Debian", purl)
    return part | ({"sourceInfo": f"built from the Debian source package {source}"} if source else {})


def python_packages(site: Path) -> Iterator[Part]:
    """A part for each distribution in a site-packages folder."""
    for metadata in sorted(site.glob("*.dist-info/METADATA")):
        fields = HeaderParser().parsestr(metadata.read_text())
        name, version = fields["Name"], fields["Version"]
        plain = re.sub(r"[-_.]+", "-", name).lower()
        part = _part(name, version, "NOASSERTION", f"pkg:pypi/{plain}@{version}")
        licence = fields.get("License-Expression")
        yield part | ({"licenseDeclared": licence} if licence else {})


def _part(name: str, version: str, supplier: str, purl: str) -> Part:
    kind = purl.split(":", 1)[1].split("/", 1)[0]
    return {
        "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{kind}-{name}-{version}"),
        "name": name,
        "versionInfo": version,
        "supplier": supplier,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl},
        ],
    }


def document(version: str, epoch: int, parts: list[Part]) -> dict[str, Any]:
    """The SPDX document: one image that contains all parts."""
    image = _part("vetting-live-image", version, "NOASSERTION", f"pkg:generic/vetting-live-image@{version}")
    digest = hashlib.sha256(json.dumps([image, *parts], sort_keys=True).encode()).hexdigest()
    contains = [
        {"spdxElementId": image["SPDXID"], "relationshipType": "CONTAINS", "relatedSpdxElement": part["SPDXID"]}
        for part in parts
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"vetting-live-image-{version}",
        "documentNamespace": f"urn:sha256:{digest}",
        "creationInfo": {
            "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: vetting-agent image/sbom.py"],
        },
        "packages": [image, *parts],
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": image["SPDXID"],
            },
            *contains,
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument(
        "--control", type=Path, nargs="*", default=[], help="control files of packages unpacked by hand"
    )
    args = parser.parse_args()
    parts = list(debian_packages((args.root / "var/lib/dpkg/status").read_text()))
    for control in args.control:
        fields = HeaderParser().parsestr(control.read_text())
        parts.append(debian_part(fields["Package"], fields["Version"], fields.get("Source")))
    for site in sorted((args.root / "opt/vetting-agent/lib").glob("python3*/site-packages")):
        parts += python_packages(site)
    parts.sort(key=lambda part: part["SPDXID"])
    json.dump(document(args.version, args.epoch, parts), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
