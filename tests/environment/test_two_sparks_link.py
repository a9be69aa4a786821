"""The preflight of two Sparks, for real: two network namespaces that a virtual cable joins stand for the machines.

Only root can make namespaces. For other users this file has no tests. As root, it fails where they can't be made.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from environment.scale_out import two_sparks_preflight
from environment.scale_out.two_sparks_config import Pair, read
from environment.scale_out.two_sparks_preflight import Answer, Run, here, packets, preflight
from tests.environment.test_two_sparks import answers, failed

HEAD, WORKER = f"labs-head-{os.getpid()}", f"labs-worker-{os.getpid()}"  # tests may run in parallel
SAME = {
    "docker image inspect": Answer(0, "sha256:1234"),
    "ls /sys/class/infiniband": Answer(0, "rocep1s0f0\nroceP2p1s0f0"),
    "cat /proc/meminfo": Answer(0, "MemAvailable:   120000000 kB"),
    "find": Answer(0, "config.json 2\nmodel.safetensors 7"),
}


def inside(namespace: str) -> Run:
    """Run commands in a network namespace."""
    return lambda words: here(["ip", "netns", "exec", namespace, *words])


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@pytest.fixture
def cable() -> Iterator[Pair]:
    """The example's two machines, joined by a cable whose ends have an MTU of 9000."""
    pair = read()
    try:
        made = [subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True) for name in (HEAD, WORKER)]
    except FileNotFoundError:
        pytest.fail("the program ip is missing. Fix: apt-get install iproute2")
    if any(one.returncode for one in made):
        pytest.fail(f"no network namespace: {made[0].stderr}. Fix: run with CAP_SYS_ADMIN (docker run --privileged)")
    try:
        name = pair.head.interface
        ip("link", "add", name, "netns", HEAD, "type", "veth", "peer", "name", pair.worker.interface, "netns", WORKER)
        for namespace, spark in ((HEAD, pair.head), (WORKER, pair.worker)):
            ip("-n", namespace, "address", "add", f"{spark.address}/24", "dev", spark.interface)
            ip("-n", namespace, "link", "set", spark.interface, "mtu", str(pair.mtu), "up")
        yield pair
    finally:
        for namespace in (HEAD, WORKER):
            ip("netns", "delete", namespace)


def checked(pair: Pair, **other: dict[str, Answer]) -> list[str]:
    head, worker = ({**SAME, **other.get(name, {})} for name in ("head", "worker"))
    return failed(preflight(pair, head=answers(inside(HEAD), head), worker=answers(inside(WORKER), worker)))


def set_link(namespace: str, pair: Pair, *words: str) -> None:
    spark = pair.head if namespace == HEAD else pair.worker
    ip("-n", namespace, "link", "set", spark.interface, *words)


class Link:
    """Tests that need the cable."""

    def test_a_good_pair_passes(self, cable: Pair) -> None:
        assert checked(cable) == []

    def test_a_small_mtu_on_either_side_is_found(self, cable: Pair) -> None:
        set_link(WORKER, cable, "mtu", "1500")
        assert checked(cable) == ["worker: enp1s0f0np0 has an MTU of 9000: 1500"]
        set_link(WORKER, cable, "mtu", "9000")
        set_link(HEAD, cable, "mtu", "1500")
        assert checked(cable) == ["head: enp1s0f0np0 has an MTU of 9000: 1500"]

    def test_the_packets_themselves_show_it(self, cable: Pair) -> None:
        """As behind a switch that drops large packets: both interfaces could look right."""
        set_link(WORKER, cable, "mtu", "1500")
        assert packets(cable, inside(HEAD), inside(WORKER)).found == "lost on the way to the worker"
        set_link(WORKER, cable, "mtu", "9000")
        set_link(HEAD, cable, "mtu", "1500")
        assert packets(cable, inside(HEAD), inside(WORKER)).found == "too large for the head's interface"
        set_link(HEAD, cable, "mtu", "9000")
        assert packets(cable, inside(HEAD), inside(WORKER)).ok

    def test_a_link_that_is_down_is_found(self, cable: Pair) -> None:
        set_link(WORKER, cable, "down")
        found = checked(cable)
        assert "worker: enp1s0f0np0 is up: DOWN" in found
        assert any(line.startswith("head: enp1s0f0np0 is up: ") for line in found), "its cable has no signal"

    def test_an_interface_of_another_name_is_found(self, cable: Pair) -> None:
        set_link(WORKER, cable, "down")
        set_link(WORKER, cable, "name", "enp1s0f1np1", "up")
        assert any(line.startswith("worker: enp1s0f0np0 exists: ") for line in checked(cable))

    def test_a_missing_address_is_found(self, cable: Pair) -> None:
        ip("-n", WORKER, "address", "flush", "dev", cable.worker.interface)
        assert checked(cable) == ["worker: enp1s0f0np0 has the address 192.168.100.11: no address"]

    def test_a_firewall_is_found(self, cable: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        """Packets to a wrong hardware address are dropped without an answer, as by a firewall."""
        monkeypatch.setattr(two_sparks_preflight, "PROBE_S", 1.0)
        there = ("lladdr", "02:00:00:00:00:01", "dev", cable.head.interface, "nud", "permanent")
        ip("-n", HEAD, "neighbour", "replace", cable.worker.address, *there)
        assert checked(cable) == ["packets of 9000 bytes pass in both directions: nothing passes"]

    def test_a_taken_port_is_found(self, cable: Pair) -> None:
        taken = {"ss": Answer(0, "LISTEN 0 128 127.0.0.1:8000 0.0.0.0:* ")}
        assert checked(cable, head=taken) == ["head: ports 8000, 29501 are free: taken: 8000"]

    def test_different_machines_are_found(self, cable: Pair) -> None:
        other = {
            "docker image inspect": Answer(1, "Error: No such image"),
            "find": Answer(0, "config.json 2\nmodel.safetensors 6"),
            "ls /sys/class/infiniband": Answer(0, "rocep1s0f1"),
            "cat /proc/meminfo": Answer(0, "MemAvailable:   60000000 kB"),
        }
        names = [line.partition(":")[0] for line in checked(cable, worker=other)]
        assert len(names) == 4
        assert sum(name.startswith("the same") for name in names) == 2

    def test_weights_without_their_tensors_are_found(self, cable: Pair, tmp_path: Path) -> None:
        empty = {"find": Answer(0, "config.json 2")}
        assert "not on the head: no safetensors" in checked(cable, head=empty, worker=empty)[0]


if os.geteuid() == 0:
    TestLink = Link
