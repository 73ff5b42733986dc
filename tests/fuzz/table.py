"""The table: every parser of text or data from outside, and the files that hold one.

`tests/fuzz/test_fuzz.py` fails on a file of probes or stages that reads text (it imports json or re, or splits lines)
and is named neither by an entry nor in NO_PARSER.
"""

from __future__ import annotations

from tests.fuzz import (
    subjects_answers,
    subjects_board,
    subjects_disk,
    subjects_evidence,
    subjects_gpu,
    subjects_kernel,
    subjects_load,
    subjects_wire,
)

PARSERS = (
    *subjects_disk.ENTRIES,
    *subjects_load.ENTRIES,
    *subjects_answers.ENTRIES,
    *subjects_board.ENTRIES,
    *subjects_kernel.ENTRIES,
    *subjects_wire.ENTRIES,
    *subjects_evidence.ENTRIES,
    *subjects_gpu.ENTRIES,
)

NO_PARSER: dict[str, str] = {
    "probes/blank_child.py": "reads blocks of a disk; what it prints is read by probes/blank.py",
    "probes/pysmart_bridge.py": "hands lines on; smartctl's answer is read by probes/smart.py",
    "probes/tools.py": "the door to processes: takes output as it is; its init's status is our own",
    "probes/lldp_child.py": "hands frames on as they came; probes/lldp.py reads them",
    "probes/path_child.py": "compares bytes that it sent itself; what it prints is read by probes/path.py",
    "probes/crash_records.py": "hands on what an earlier boot left, as evidence; nothing is judged by it",
    "probes/tool_result.py": "finds the last line of an output, for messages",
    "stages/compute_child.py": "what it prints is read by stages/cpu_answers.py",
    "stages/iperf_child.py": "hands libiperf's report on; stages/iperf.py reads it",
    "stages/network_server.py": "names an iperf3 server by the claim's address",
    "stages/psu_redfish.py": "takes the first line of an operator's file; probes/redfish.py reads the answers",
    "stages/psu_places.py": "counts supplies among rows that probes/ipmi.py and probes/smbios.py have read",
    "stages/smart_scope.py": "looks for words in a model's name that probes/smart_parse.py has read",
    "stages/stamp_child.py": "reads stamps of its own; what it prints is read by stages/stamps.py",
    "stages/storage.py": "writes JSON, reads none",
    "stages/storage_disk.py": "compares paths of block devices",
}
"""Modules of probes and stages that look as if they read text from outside and do not, or hand it on: why."""
