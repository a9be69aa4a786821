"""What has to hold on two Sparks before a model is loaded on both: `make two-sparks ARGS=--check`, on the head.

The head's commands run here, the worker's by ssh. None needs root. The test of this file runs the same commands in two
network namespaces that a virtual cable joins. Not verified on hardware.
"""

import inspect
import json
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from environment.scale_out.two_sparks_config import RAY_IMAGE, Pair, Spark
from shared.course.prefill.tensorrt.preflight import Check
from shared.engines import ENGINES
from shared.launch import containers

PROBE_PORT = 29_555  # UDP
PROBE_S = 8.0  # ssh may take seconds to start the other side
IP_AND_UDP_HEADER = 28  # bytes


@dataclass(frozen=True)
class Answer:
    """What a command printed, its errors included, and its exit status."""

    status: int
    text: str


Run = Callable[[Sequence[str]], Answer]


def here(words: Sequence[str]) -> Answer:
    """Run a command on this machine."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return Answer(127, f"{words[0]} is not installed")
    except subprocess.TimeoutExpired:
        return Answer(124, f"{words[0]} did not end within 60 s")
    return Answer(done.returncode, (done.stdout + (done.stderr if done.returncode else "")).strip())


def by_ssh(target: str) -> Run:
    """Commands on the machine that ssh knows by this name. ssh must not ask for a password."""
    options = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
    return lambda words: here(["ssh", *options, target, shlex.join(words)])


def preflight(pair: Pair, ray: bool = False, head: Run = here, worker: Run | None = None) -> list[Check]:
    """Every check, in the order in which a fault should be repaired. Later ones are left out where they can't work."""
    worker = worker or by_ssh(pair.worker.ssh)
    machines = (("head", pair.head, head), ("worker", pair.worker, worker))
    reached = worker(["true"])
    checks = [
        Check(
            "the worker is reached by ssh",
            reached.status == 0,
            reached.text or pair.worker.ssh,
            f"ssh-copy-id {pair.worker.ssh}, then try: ssh {pair.worker.ssh} true",
        )
    ]
    if reached.status:
        return checks
    checks += [check for name, spark, run in machines for check in link(name, spark, run, pair.mtu)]
    if all(check.ok for check in checks):
        checks.append(packets(pair, head, worker))
    checks += [rdma(name, spark, run) for name, spark, run in machines]
    checks.append(same_image(pair, head, worker, ray))
    checks.append(same_weights(pair, head, worker))
    checks += [enough_memory(name, run, pair.needed.total) for name, _, run in machines]
    ports = (pair.port, pair.ray_port if ray else pair.master_port)
    return [*checks, free_ports(head, ports)]


def link(name: str, spark: Spark, run: Run, mtu: int) -> list[Check]:
    """Whether the interface exists, is up, and has its address and its MTU."""
    title = f"{name}: {spark.interface}"
    answer = run(["ip", "-json", "address", "show", "dev", spark.interface])
    if answer.status:
        names = "`ip -br link` lists the names there. They can differ between two machines"
        return [Check(f"{title} exists", False, answer.text, f"correct {name}.interface: {names}")]
    found: Mapping[str, Any] = json.loads(answer.text)[0]
    addresses = [one["local"] for one in found.get("addr_info", ()) if one.get("family") == "inet"]
    up = f"sudo ip link set {spark.interface} up"
    return [
        Check(
            f"{title} is up",
            found["operstate"] == "UP",
            found["operstate"],
            f"on the {name}: {up}. If that changes nothing, check the cable and the other machine's interface",
        ),
        Check(
            f"{title} has the address {spark.address}",
            spark.address in addresses,
            ", ".join(addresses) or "no address",
            f"on the {name}: sudo ip address add {spark.address}/24 dev {spark.interface} (until the next restart)",
        ),
        Check(
            f"{title} has an MTU of {mtu}",
            found["mtu"] == mtu,
            str(found["mtu"]),
            f"on the {name}: sudo ip link set {spark.interface} mtu {mtu} (until the next restart)",
        ),
    ]


def packets(pair: Pair, head: Run, worker: Run) -> Check:
    """Whether packets as large as the MTU pass the link whole, in both directions.

    The MTU of both interfaces may be right, and a switch between them may still drop large packets.
    """
    listen = program(answer_probes, pair.worker.address, PROBE_PORT, PROBE_S)
    other: list[Answer] = []
    thread = threading.Thread(target=lambda: other.append(worker(listen)))
    thread.start()
    size = pair.mtu - IP_AND_UDP_HEADER
    answer = head(program(send_probes, pair.head.address, pair.worker.address, PROBE_PORT, size, PROBE_S))
    thread.join()
    said = last_line(answer.text)
    if other[0].status:
        said = f"the worker could not listen: {last_line(other[0].text)}"
    silent = f"allow UDP port {PROBE_PORT}, and check the cable: ping {pair.worker.address}"
    large = f"set an MTU of {pair.mtu} on everything between the machines, or lower mtu in the file"
    fix = large if said.startswith(("lost", "too large")) else silent
    return Check(f"packets of {pair.mtu} bytes pass in both directions", said == "ok", said, fix)


def last_line(text: str) -> str:
    """The line of an error that states it."""
    return next(reversed(text.splitlines()), "no message")


def program(function: Callable[..., None], *arguments: object) -> list[str]:
    """A function of this file as a command for a machine that has nothing of this project. It imports what it needs."""
    return ["python3", "-c", f"{inspect.getsource(function)}\n{function.__name__}{arguments!r}"]


def answer_probes(own: str, port: int, seconds: float) -> None:
    """On the worker: acknowledge each datagram with its size, and send it back."""
    import socket
    import time

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IP, 10, 3)  # Linux: IP_MTU_DISCOVER to IP_PMTUDISC_PROBE. No packet is split
        s.bind((own, port))
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            s.settimeout(left)
            try:
                data, sender = s.recvfrom(65535)
            except TimeoutError:
                return
            if data == b"end":
                return
            s.sendto(b"got %d" % len(data), sender)
            try:
                s.sendto(data, sender)
            except OSError:
                s.sendto(b"too large", sender)


def send_probes(own: str, other: str, port: int, size: int, seconds: float) -> None:
    """On the head: send a small datagram until it is answered, then large ones, and print what became of them."""
    import socket
    import time

    def ask(data: bytes, tries: int) -> list[bytes]:
        answers: list[bytes] = []
        for _ in range(tries):
            s.sendto(data, (other, port))
            end = time.monotonic() + 0.5
            while (left := end - time.monotonic()) > 0:
                s.settimeout(left)
                try:
                    answers.append(s.recv(65535))
                except OSError:  # no answer in time, or "connection refused" before the worker listens
                    break
                if answers[-1] in (data, b"too large"):
                    return answers
        return answers

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IP, 10, 3)
        s.bind((own, 0))
        if not ask(b"hello", int(2 * seconds)):
            print("nothing passes")
            return
        try:
            answers = ask(b"x" * size, 3)
        except OSError:
            print("too large for the head's interface")
        else:
            if b"x" * size in answers:
                print("ok")
            elif b"too large" in answers:
                print("too large for the worker's interface")
            else:
                print("lost on the way back" if b"got %d" % size in answers else "lost on the way to the worker")
        s.sendto(b"end", (other, port))


def rdma(name: str, spark: Spark, run: Run) -> Check:
    """Whether the RDMA devices exist, without which NCCL falls back to TCP without an error."""
    there = run(["ls", "/sys/class/infiniband"])
    missing = [device for device in spark.rdma if device not in there.text.split()]
    found = ", ".join(there.text.split()) if there.status == 0 else "no RDMA device"
    return Check(
        f"{name}: RDMA devices {', '.join(spark.rdma)}",
        there.status == 0 and not missing,
        found,
        f"correct {name}.rdma: `rdma link` shows the device of each interface",
    )


def same_image(pair: Pair, head: Run, worker: Run, ray: bool) -> Check:
    """Whether both machines have the same image."""
    reference = RAY_IMAGE if ray else containers.images()[ENGINES["vllm"].container.image].reference
    get = "ray-0-image.sh on the head" if ray else f"on both machines: docker pull {reference}"
    inspect_it = ["docker", "image", "inspect", "--format", "{{.Id}}", reference]
    return same(f"the same image {reference}", head(inspect_it), worker(inspect_it), get)


def same_weights(pair: Pair, head: Run, worker: Run) -> Check:
    """Whether both machines have the same files of the weights, by name and size."""
    answers = []
    for spark, run in ((pair.head, head), (pair.worker, worker)):
        found = run(["find", "-L", f"{spark.hub}/{pair.snapshot}", "-type", "f", "-printf", "%P %s\\n"])
        lines = sorted(found.text.splitlines())
        empty = found.status == 0 and not any(".safetensors " in line for line in lines)
        answers.append(Answer(1, "no safetensors") if empty else Answer(found.status, "\n".join(lines)))
    # Meta's repositories hold the weights twice: "original" has them in a form that vLLM doesn't read.
    download = f"hf download {pair.repository} --revision {pair.revision} --exclude 'original/*'"
    get = f"on both machines, with HF_HOME as in the file: {download}"
    return same(f"the same weights {pair.repository}@{pair.revision[:8]}", answers[0], answers[1], get)


def same(name: str, on_head: Answer, on_worker: Answer, fix: str) -> Check:
    """A check that both machines answered the same."""
    for where, answer in (("head", on_head), ("worker", on_worker)):
        if answer.status:
            return Check(name, False, f"not on the {where}: {last_line(answer.text)}", fix)
    differing = sorted(set(on_head.text.splitlines()) ^ set(on_worker.text.splitlines()))
    return Check(name, not differing, f"they differ: {', '.join(differing[:4])}" if differing else "yes", fix)


def enough_memory(name: str, run: Run, needed_gib: float) -> Check:
    """Whether the machine has enough free memory now."""
    row = re.search(r"MemAvailable:\s+(\d+) kB", run(["cat", "/proc/meminfo"]).text)
    available = int(row[1]) / 2**20 if row else 0.0
    return Check(
        f"{name}: {needed_gib:.0f} GiB are free",
        available >= needed_gib,
        f"{available:.0f} GiB",
        f"on the {name}: end other engines (make down), or lower --max-num-seqs or --max-model-len",
    )


def free_ports(run: Run, ports: Sequence[int]) -> Check:
    """Whether nothing else listens on the head's ports."""
    answer = run(["ss", "-Hltn"])
    taken = [port for port in ports if re.search(rf":{port}\s", answer.text)]
    return Check(
        f"head: ports {', '.join(map(str, ports))} are free",
        answer.status == 0 and not taken,
        f"taken: {', '.join(map(str, taken))}" if taken else answer.text if answer.status else "yes",
        "choose other ports in the file; `ss -ltnp` shows which program uses one",
    )


def report(checks: Sequence[Check]) -> str:
    """The checks as text, with the fix of each that failed."""
    lines = []
    for check in checks:
        lines.append(f"{'ok' if check.ok else 'failed':<7} {check.name}: {check.found}")
        lines += [] if check.ok else [f"        fix: {check.fix}"]
    return "\n".join(lines)
