"""What iPXE is answered with: scripts, as text. Pure."""

from __future__ import annotations

import re

SCRIPT_TYPE = "text/plain; charset=utf-8"
PLAIN_TEXT = re.compile(r"[^A-Za-z0-9 .,:;_/()@-]")
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f]")


def boot_script(template: str, base: str, parameters: str, extra: str) -> str:
    """The image's boot.ipxe with its gaps filled. Raises ValueError when one cannot be found, or a value has no line.

    `base`: URL of the folder with vmlinuz and initrd. `parameters`, `extra`: words of the kernel command line.
    """
    filled = template
    for gap, value in {"@BASE@": base, "@PARAMETERS@": parameters, "@EXTRA@": extra}.items():
        if gap not in filled:
            raise ValueError(f"boot.ipxe has no {gap}")
        if FORBIDDEN.search(value):
            raise ValueError(f"what goes to {gap} is not one line")
        filled = filled.replace(gap, value)
    return filled


def cmdline_of(url: str, fingerprint: str, run_id: int, token: str, mac: str | None) -> str:
    """The boot parameters of docs/protocol.md as words of a kernel command line."""
    words = {"orchestrator": url, "run_id": str(run_id), "token": token, "tls_fpr": fingerprint, "mac": mac}
    return " ".join(f"vetting.{name}={value}" for name, value in words.items() if value is not None)


def local_script(why: str) -> str:
    """Boots what the machine boots without a network.

    On UEFI a boot entry that returns an error makes the firmware go on to its next entry; a BIOS wants to be led to
    the first disk, and goes on by itself where that has nothing to boot.
    """
    return "\n".join(
        [
            "#!ipxe",
            f"echo {_said(why)}: booting from the local disk",
            "iseq ${platform} efi && exit 1 ||",
            "sanboot --no-describe --drive 0x80 || exit 1",
            "",
        ]
    )


def wait_script(why: str, again: str, seconds: int) -> str:
    """Waits, and asks for its script again. `again`: the URL."""
    return "\n".join(
        [
            "#!ipxe",
            f"echo {_said(why)}: asking again in {seconds} seconds",
            f"sleep {seconds}",
            f"chain --replace {again} ||",
            f"echo No answer: trying again in {seconds} seconds",
            f"sleep {seconds}",
            f"chain --replace {again} || exit 1",
            "",
        ]
    )


def ask_script(base: str) -> str:
    """For an iPXE that did not say who it is: it asks with the address of the port that it came over."""
    return "\n".join(
        [
            "#!ipxe",
            "isset ${netX/mac} && set mac ${netX/mac} || set mac ${net0/mac}",
            f"chain --replace {base}/boot.ipxe?mac=${{mac}} || exit 1",
            "",
        ]
    )


def _said(text: str) -> str:
    """A text that iPXE shows and does not act on."""
    return PLAIN_TEXT.sub("?", text)[:200]
