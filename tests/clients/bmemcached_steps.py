"""python-binary-memcached, binary protocol: bmemcached_steps.py HOST PORT."""

import random
import sys

import bmemcached
from steps import ALL_BYTES, MIB, PASSED, TOO_LARGE, Steps, begins

c = bmemcached.Client((f"{sys.argv[1]}:{sys.argv[2]}",), socket_timeout=30, compression=None)
s = Steps()

s.see("missing", lambda: c.get("missing"), None)
s.see("set", lambda: (c.set("key", b"value"), c.get("key")), (True, b"value"))
for name, value in [("text", "ümlaut"), ("int", -5), ("object", {"a": [1, 2.5]}), ("empty", ""), ("bytes", ALL_BYTES)]:
    s.see(f"{name} by its flags", lambda name=name, value=value: (c.set(name, value), c.get(name) == value), (True, True))
s.see("compressed", lambda: (c.set("zip", "a" * 100_000, compress_level=6), c.get("zip") == "a" * 100_000), (True, True))
s.see("1 MiB", lambda: (c.set("large", MIB), c.get("large") == MIB), (True, True))
s.see("too large", lambda: c.set("large", random.randbytes(len(TOO_LARGE))), begins("MemcachedException: Code: 3"))
s.see("goes on", lambda: c.get("key"), b"value")
s.see("not expired", lambda: (c.set("long", b"v", time=1000), c.get("long")), (True, b"v"))
s.see("expired", lambda: (c.set("brief", b"v", time=PASSED), c.get("brief")), (True, None))
s.see("add over", lambda: c.add("key", b"other"), False)
s.see("add", lambda: c.add("new", b"v"), True)
s.see("replace", lambda: (c.replace("new", b"w"), c.get("new")), (True, b"w"))
s.see("replace of nothing", lambda: c.replace("missing", b"w"), False)
s.see("delete", lambda: (c.delete("new"), c.get("new")), (True, None))
s.see("delete of nothing", lambda: c.delete("new"), True)
s.see("incr creates", lambda: (c.incr("n", 5, default=10), c.incr("n", 5), c.decr("n", 20)), (10, 15, 0))
value, cas = c.gets("key")
s.see("gets", value, b"value")
s.see("cas", lambda: c.cas("key", b"swapped", cas), True)
s.see("cas again", lambda: c.cas("key", b"swapped", cas), False)
s.see("delete with a cas", lambda: (c.delete("key", cas=cas), c.delete("key", cas=c.gets("key")[1]), c.get("key")), (False, True, None))
many = {f"many{i}": b"%d" % i for i in range(1000)}
s.see("set_multi", lambda: c.set_multi(many), [])
s.see("get_multi", lambda: c.get_multi([*many, "missing"]) == many, True)
s.see("delete_multi", lambda: (c.delete_multi(list(many)), c.get_multi(list(many))), (True, {}))
s.see("stats", lambda: {"pid", "curr_items", "get_hits", "threads"} <= list(c.stats().values())[0].keys(), True)
s.see("flush_all", lambda: (c.flush_all(), c.get("n")), (True, None))
s.end()
