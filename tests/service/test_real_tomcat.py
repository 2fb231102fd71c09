"""The table of readings, and the gate, against a real Tomcat 10.1, where its classes and a Java are at hand.

FACESIEVE_TOMCAT=/usr/share/java/tomcat10-embed-core.jar:... pytest -m slow tests/service/test_real_tomcat.py
"""

import hashlib
import os
import random
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gate as campaign
import server_readings

CLASSES = os.environ.get("FACESIEVE_TOMCAT")
WAYS = ["Tomcat 10.1", "Tomcat, encodedSolidusHandling decode", "Tomcat, allowBackslash"]  # as TomcatBehind has its connectors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CLASSES is None, reason="FACESIEVE_TOMCAT names no classes of Tomcat 10.1; Debian's libtomcat10-java has them"
    ),
]


@pytest.fixture(scope="module")
def ports():
    source = Path(__file__).with_name("TomcatBehind.java")
    command = ["java", "-cp", CLASSES, str(source)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield [int(next(line for line in process.stdout if line.startswith("listening on")).split()[-1]) for _ in WAYS]
        finally:
            process.kill()


class Answer:
    """What Tomcat made of a request, sent byte for byte: the address that it looked up, and the hashes of what it read."""

    def __init__(self, port, asked):
        head = b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % (asked.method.encode(), asked.path.partition(b"#")[0])
        kind = f"Content-Type: {asked.content_type}\r\n".encode() if asked.content_type else b""
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head + kind + b"Content-Length: %d\r\n\r\n" % len(asked.body) + asked.body)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        top, _, text = answer.partition(b"\r\n\r\n")
        found = re.sub(rb"\r\n[0-9a-f]*\r\n|^[0-9a-f]+\r\n", b"", text).decode().split("\n")
        self.address = found[0] if b" 200 " in top.split(b"\r\n")[0] else None
        self.hashes = found[1:]


def requests(count):
    draw = random.Random(11)
    for asked in (campaign.request(draw) for _ in range(count)):
        if all(32 < byte < 127 for byte in asked.path):  # others no HTTP parser takes
            yield asked


def test_the_table_reads_paths_as_tomcat_does(ports):
    table = {server.name: server for server in server_readings.servers()}
    for asked in requests(2000):
        path = re.split(rb"[?#]", asked.path)[0]
        for port, way in zip(ports, WAYS, strict=True):
            read = table[way].address(path)
            if read in campaign.ADDRESSES["POST"] or Answer(port, asked).address in campaign.ADDRESSES["POST"]:
                assert Answer(port, asked).address == read, (way, path)


def test_no_photograph_arrives_at_tomcat_behind_the_gate_and_many_do_without(ports):
    without = 0
    for asked in requests(2000):
        sent, photograph = campaign.behind_the_gate(asked), hashlib.sha256(asked.photograph).hexdigest()
        for port in ports:
            without += photograph in Answer(port, asked).hashes
            assert sent is None or photograph not in Answer(port, sent).hashes, sent
    assert without > 500
