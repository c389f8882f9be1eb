"""Stores the system's package index through pymemcache, reads it back, and compares every value.

    records.py HOST PORT FILE

FILE holds what `apt-cache dumpavail` prints: records divided by empty lines, each with a line `Package: NAME`. What has
been done is told line by line, so that whoever started this knows when to disturb it.
"""

import sys

from pymemcache.client.base import Client

BATCH = 50


def read(path):
    """Key and value of each record; a package of several versions has a key for each."""
    records = {}
    with open(path, "rb") as file:
        for record in file.read().split(b"\n\n"):
            if not record.strip():
                continue
            name = next(line[9:] for line in record.split(b"\n") if line.startswith(b"Package: "))
            versions = [line[9:] for line in record.split(b"\n") if line.startswith(b"Version: ")]
            key = b"/".join([name, *versions]).decode()[:240]
            while key in records:
                key += "+"
            records[key] = record
    return records


def tell(line):
    print(line, flush=True)


def main():
    host, port, path = sys.argv[1:]
    records = read(path)
    tell(f"records {len(records)}")
    client = Client((host, int(port)), connect_timeout=30, timeout=30, no_delay=True)

    keys = list(records)
    for done in range(0, len(keys), BATCH):
        batch = keys[done : done + BATCH]
        # Half of them one by one, half of them in one piece, as applications do both.
        for key in batch[: BATCH // 2]:
            client.set(key, records[key], noreply=False)
        failed = client.set_many({key: records[key] for key in batch[BATCH // 2 :]}, noreply=False)
        assert not failed, f"not stored: {failed}"
        if done % 5000 == 0:
            tell(f"stored {done}")
    tell(f"stored all {len(keys)}")

    compared, wrong = 0, []
    for done in range(0, len(keys), BATCH):
        batch = keys[done : done + BATCH]
        found = client.get_many(batch[: BATCH // 2])
        for key in batch[BATCH // 2 :]:
            found[key] = client.get(key)
        for i, key in enumerate(batch, done):
            if found.get(key) != records[key]:
                again = "then right" if client.get(key) == records[key] else "again wrong"
                wrong.append(f"record {i}, {key}: {found.get(key)!r}, {again}")
            compared += 1
        if done % 5000 == 0:
            tell(f"compared {done}")

    assert not wrong, f"{len(wrong)} records are wrong: {wrong[:20]}"

    first = keys[0]
    value, cas = client.gets(first)
    assert value == records[first]
    assert client.cas(first, b"swapped", cas, noreply=False) is True
    assert client.cas(first, b"swapped again", cas, noreply=False) is False
    assert client.get(first) == b"swapped"
    assert client.delete(first, noreply=False) is True
    assert client.get(first) is None
    assert client.add("counter", b"41", noreply=False) is True
    assert client.incr("counter", 1) == 42
    assert client.touch("counter", 100, noreply=False) is True
    tell(f"compared all {compared}")


if __name__ == "__main__":
    main()
