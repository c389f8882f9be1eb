"""python-memcached, text protocol: python_memcached_steps.py HOST PORT."""

import sys

import memcache
from steps import ALL_BYTES, MIB, TOO_LARGE, Steps

c = memcache.Client([f"{sys.argv[1]}:{sys.argv[2]}"], socket_timeout=30, cache_cas=True, server_max_value_length=2 << 20)
s = Steps()

s.see("missing", lambda: c.get("missing"), None)
s.see("set", lambda: c.set("key", b"value"), True)
s.see("get", lambda: c.get("key"), b"value")
for name, value in [("text", "ümlaut"), ("int", -5), ("object", {"a": [1, 2.5]}), ("empty", ""), ("bytes", ALL_BYTES)]:
    s.see(f"{name} by its flags", lambda name=name, value=value: (c.set(name, value), c.get(name) == value), (True, True))
s.see("compressed", lambda: (c.set("zip", "a" * 100_000, min_compress_len=1000), c.get("zip") == "a" * 100_000), (True, True))
s.see("1 MiB", lambda: (c.set("large", MIB), c.get("large") == MIB), (True, True))
# The client itself has a limit; above it, nothing is sent.
s.see("too large", lambda: c.set("large", TOO_LARGE), 0)
s.see("expired", lambda: (c.set("brief", b"v", time=-1), c.get("brief")), (True, None))
s.see("touch", lambda: (c.set("long", b"v", time=1000), c.touch("long", 2000), c.get("long")), (True, 1, b"v"))
s.see("touch of nothing", lambda: c.touch("missing", 1), 0)
s.see("add over", lambda: c.add("key", b"other"), False)
s.see("add", lambda: c.add("new", b"v"), True)
s.see("replace", lambda: c.replace("new", b"w"), True)
s.see("replace of nothing", lambda: c.replace("missing", b"w"), False)
s.see("append", lambda: (c.append("new", b"z"), c.prepend("new", b"y"), c.get("new")), (True, True, b"ywz"))
s.see("append to nothing", lambda: c.append("missing", b"z"), False)
s.see("delete", lambda: (c.delete("new"), c.get("new")), (1, None))
s.see("delete of nothing", lambda: c.delete("new"), 0)
s.see("incr", lambda: (c.set("n", 10), c.incr("n", 5), c.decr("n", 20)), (True, 15, 0))
s.see("incr of nothing", lambda: c.incr("missing"), None)
s.see("gets", lambda: c.gets("key"), b"value")
s.see("cas", lambda: c.cas("key", b"swapped"), True)
other = memcache.Client([f"{sys.argv[1]}:{sys.argv[2]}"], socket_timeout=30)
s.see("cas behind another's set", lambda: (c.gets("key"), other.set("key", b"theirs"), c.cas("key", b"ours")), (b"swapped", True, False))
s.see("cas lost", lambda: c.get("key"), b"theirs")
many = {f"many{i}": i for i in range(1000)}
s.see("set_multi", lambda: c.set_multi(many), [])
s.see("get_multi", lambda: c.get_multi([*many, "missing"]) == many, True)
s.see("with a prefix", lambda: (c.set_multi({"1": "a", "2": "b"}, key_prefix="p_"), c.get_multi(["1", "2"], key_prefix="p_")), ([], {"1": "a", "2": "b"}))
s.see("delete_multi", lambda: (c.delete_multi(list(many)), c.get_multi(list(many))), (1, {}))
for i in range(1000):
    c.set(f"noreply{i % 100}", i, noreply=True)
s.see("noreply, in order", lambda: c.get_multi([f"noreply{i}" for i in range(100)]), {f"noreply{i}": 900 + i for i in range(100)})
stats = c.get_stats()
s.see("stats", lambda: {"pid", "curr_items", "get_hits", "threads"} <= stats[0][1].keys(), True)
s.see("slabs", lambda: isinstance(c.get_slab_stats(), list), True)
s.see("flush_all", lambda: (c.flush_all(), c.get("key")), (None, None))
s.end()
