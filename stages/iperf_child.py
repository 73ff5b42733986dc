"""Runs one iperf3 client test. Executed as a script by `stages.iperf`, in a process that can be killed; never imported.

    python -I iperf_child.py '{"host", "port", "seconds", "omit", "streams", "reverse", "both", "address", "device"}'

Prints one line of JSON: {"report": iperf3's own JSON, "version"} or {"error": text, "version"}.
Exit code 3: there is no libiperf here.

The `iperf3` package builds the test; its own `run()` is not used: it lets libiperf print its JSON into a pipe
that nobody empties until the test is over, and so hangs on reports of more than 64 KiB.
"""

import ctypes
import json
import os
import sys

NO_LIBRARY = 3
CONNECT_LIMIT_MS = 5000


def main(argv: list[str]) -> int:
    request = json.loads(argv[0])
    answer_fd = os.dup(1)
    # libiperf prints its report to standard output as well; the answer goes out on a copy of it.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        import iperf3

        client = iperf3.Client()
    except (ImportError, OSError) as problem:
        _answer(answer_fd, {"error": f"{problem}", "version": None})
        return NO_LIBRARY
    try:
        _configure(client, request)
    except NotImplementedError as problem:
        _answer(answer_fd, {"error": f"{problem}", "version": client.iperf_version.removeprefix("iperf ")})
        os._exit(0)
    failed = client.lib.iperf_run_client(client._test)
    text = client.lib.iperf_get_test_json_output_string(client._test)
    report = json.loads(text) if text else {}
    answer = {"version": client.iperf_version.removeprefix("iperf ")}
    if failed or report.get("error"):
        answer["error"] = report.get("error") or client._error_to_string(client._errno)
    else:
        answer["report"] = report
    _answer(answer_fd, answer)
    os._exit(0)  # the package's destructor ends a test that is over, and closes descriptors that are not its own


def _configure(client, request) -> None:  # type: ignore[no-untyped-def]  # the package has no types
    client.server_hostname = request["host"]
    client.port = request["port"]
    client.duration = request["seconds"]
    client.omit = request["omit"]
    client.num_streams = request["streams"]
    client.reverse = request["reverse"]
    if request.get("both"):
        if not hasattr(client.lib, "iperf_set_test_bidirectional"):
            raise NotImplementedError("this libiperf cannot test both ways at once")
        _set(client, "iperf_set_test_bidirectional", ctypes.c_int, 1)
    if request.get("address"):
        client.bind_address = request["address"]
    _set(client, "iperf_set_test_connect_timeout", ctypes.c_int, CONNECT_LIMIT_MS)
    if request.get("device"):
        # Binding to the address alone leaves the choice of the port to the routing table. libiperf 3.10 and later.
        _set(client, "iperf_set_test_bind_dev", ctypes.c_char_p, request["device"].encode())


def _set(client, name, kind, value) -> None:  # type: ignore[no-untyped-def]
    setter = getattr(client.lib, name, None)
    if setter is not None:
        setter.restype = None
        setter.argtypes = (ctypes.c_void_p, kind)
        setter(client._test, value)


def _answer(fd: int, answer: object) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
