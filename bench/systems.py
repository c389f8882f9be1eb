"""What the scripts beside this start and load: clusters of kumofs, `kumofs` in one process, memcached, twemproxy before memcached.

Everything is on loopback, at ports that the system chooses, and ends with the script that started it.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

# Name: options of kumobench.
WORKLOADS = {
    "get": "--op get --connections 64",
    "set": "--op set --connections 64",
    "get x16": "--op get --connections 64 --depth 16",
    "set x16": "--op set --connections 64 --depth 16",
    "multi-get of 20": "--op mget --connections 16 --mget-keys 20",
    "get, one connection": "--op get --connections 1",
    "set, one connection": "--op set --connections 1",
}

LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1
# Debian has nutcracker there, where only root looks.
os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin"


def installed(*programs):
    return all(map(shutil.which, programs))


def end_with_script():
    """For a new process: the kernel kills it when the script is gone, however it went."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# Below those that Linux gives to connections, any of which could take a port before the program that it was chosen for.
PORTS = random.sample(range(12_000, 32_000), 20_000)


def free_port(host="127.0.0.1"):
    while PORTS:
        port = PORTS.pop()
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind((host, port))
            return port
    sys.exit("no port is free")


class System:
    """Processes that serve memcached clients together at one address."""

    def __init__(self, name, directory):
        self.name, self.directory, self.processes = name, directory, []
        self.directory.mkdir(parents=True)

    def start(self, program, *args):
        with open(self.directory / "log", "ab") as log:
            process = subprocess.Popen([str(program), *map(str, args)], cwd=self.directory, stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=log, preexec_fn=end_with_script)
        self.processes.append(process)
        return process

    def pids(self):
        return ",".join(str(p.pid) for p in self.processes)

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                continue
            process.kill()
            process.wait()

    def wait_until_it_serves(self, patience_s=30):
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(self.address, 1) as s:
                s.settimeout(1)
                s.sendall(b"set ready 0 0 1\r\n1\r\n")
                if s.recv(64) == b"STORED\r\n":
                    return
            if any(process.poll() is not None for process in self.processes):
                break
            time.sleep(0.05)
        sys.exit(f"{self.name} does not serve:\n" + (self.directory / "log").read_text()[-2000:])


def cluster(name, directory, bins, options):
    """A manager, three servers, a gateway."""
    s = System(name, directory)
    s.address = ("127.0.0.1", free_port())
    manager = f"127.0.0.1:{free_port()}"
    s.start(bins / "kumo-manager", "-l", manager)

    def start_server(number):
        s.start(bins / "kumo-server", "-l", f"127.0.0.1:{free_port()}", "-L", free_port(), "-m", manager,
                "-s", f"store{number}", "-TR", getattr(options, "server_threads", options.threads), *options.server_option)

    def grow():
        number = len(s.processes) - len(["manager", "gateway"])
        start_server(number)
        attach(bins, manager, number + 1)

    s.grow = grow
    for number in range(options.servers):
        start_server(number)
    s.start(bins / "kumo-gateway", "-m", manager, "-t", f"127.0.0.1:{s.address[1]}", "-TR",
            getattr(options, "gateway_threads", options.threads), *options.gateway_option)
    attach(bins, manager, options.servers)
    s.wait_until_it_serves()
    return s


def attach(bins, manager, servers, patience_s=30):
    """Attaches the servers once all of them are there."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        status = subprocess.run([bins / "kumoctl", manager, "status"], capture_output=True, text=True)
        if status.returncode == 0 and status.stdout.count("127.0.0.1") >= servers:
            break
        time.sleep(0.05)
    subprocess.run([bins / "kumoctl", manager, "attach"], capture_output=True, check=True)


def one_process(name, directory, bins, options):
    """`kumofs`: all of that in one process."""
    s = System(name, directory)
    s.address = ("127.0.0.1", free_port())
    s.start(bins / "kumofs", "--listen", f"127.0.0.1:{s.address[1]}", "--threads", options.threads,
            "--servers", options.servers, *getattr(options, "one_process_option", []))
    s.wait_until_it_serves()
    return s


def memcached(name, directory, options):
    # -u counts only where the script is root's, and then a process that changes its user would not end with the script.
    s = System(name, directory)
    s.address = ("127.0.0.1", free_port())
    s.start("memcached", "-u", "root", "-l", "127.0.0.1", "-p", s.address[1], "-t", 2, "-m", 4096, "-I", "8m",
            "-c", 20_000)
    s.wait_until_it_serves()
    return s


def twemproxy(name, directory, options, servers=3):
    """nutcracker before memcached: as many hops as a gateway, but no replicas and no disk."""
    s = System(name, directory)
    s.address = ("127.0.0.1", free_port())
    ports = [free_port() for _ in range(servers)]
    for port in ports:
        s.start("memcached", "-u", "root", "-l", "127.0.0.1", "-p", port, "-t", 1, "-m", 2048, "-I", "8m")
    servers = "".join(f"    - 127.0.0.1:{port}:1\n" for port in ports)
    (directory / "nutcracker.yml").write_text(
        f"pool:\n  listen: 127.0.0.1:{s.address[1]}\n  hash: fnv1a_64\n  distribution: ketama\n  servers:\n{servers}")
    # The log of its own, because it writes one line for each connection.
    s.start("nutcracker", "-c", "nutcracker.yml", "-s", free_port(), "-a", "127.0.0.1", "-o", "nutcracker.log",
            "-m", 16384)
    s.wait_until_it_serves()
    return s


def load(kumobench, system, workload, fill, pids=None, **options):
    """Has kumobench load a system with a workload of the list, or with options of its own; what it tells of all rounds."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [str(kumobench), "%s:%d" % system.address, *WORKLOADS.get(workload, workload).split(), *words, "--json",
               "--pids", pids or system.pids(), "--fill" if fill else "--no-fill"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=end_with_script)
    if done.returncode != 0:
        sys.exit(f"{system.name}, {workload}: {done.stderr}")
    target = json.loads(done.stdout)["targets"][0]
    if target["first_error"]:
        print(f"{system.name}, {workload}: {target['first_error']}", file=sys.stderr)
    return target


def write(path, options, kept, results):
    """Writes what bench/plot reads: the options that tell what was measured; figures by workload, by system, by round.

    What could not be measured is no number, and left out.
    """
    for by_system in results.values():
        for system, rounds in by_system.items():
            by_system[system] = [{k: v for k, v in figures.items() if v == v} for figures in rounds]
    told = {"options": {k: getattr(options, k) for k in kept}, "results": results}
    pathlib.Path(path).write_text(json.dumps(told) + "\n")
