"""pylibmc (libmemcached), text and binary: pylibmc_steps.py HOST PORT text|binary, or PATH 0."""

import sys

import pylibmc
from steps import ALL_BYTES, MIB, PASSED, TOO_LARGE, Steps, begins, server

binary = sys.argv[3] == "binary"
place = server()
place = place if isinstance(place, str) else "{}:{}".format(*place)
# Without "cas", gets is not there; timeouts are in milliseconds.
behaviors = {"cas": True, "tcp_nodelay": True, "connect_timeout": 30_000, "_poll_timeout": 30_000}
c = pylibmc.Client([place], binary=binary, behaviors=behaviors)
s = Steps()

s.see("missing", lambda: c.get("missing"), None)
s.see("set", lambda: (c.set("key", b"value"), c.get("key")), (True, b"value"))
for name, value in [("text", "ümlaut"), ("int", -5), ("bool", True), ("object", {"a": [1, 2.5]}), ("empty", b""), ("bytes", ALL_BYTES)]:
    s.see(f"{name} by its flags", lambda name=name, value=value: (c.set(name, value), c.get(name) == value), (True, True))
s.see("compressed", lambda: (c.set("zip", "a" * 100_000, min_compress_len=1000), c.get("zip") == "a" * 100_000), (True, True))
s.see("1 MiB", lambda: (c.set("large", MIB), c.get("large") == MIB), (True, True))
s.see("too large", lambda: c.set("large", TOO_LARGE), begins("TooBig: "))
c.disconnect_all()
s.see("goes on", lambda: c.get("key"), b"value")
s.see("not expired", lambda: (c.set("long", b"v", time=1000), c.touch("long", 2000), c.get("long")), (True, True, b"v"))
s.see("touch of nothing", lambda: c.touch("missing", 1), False)
s.see("expired", lambda: (c.set("brief", b"v", time=PASSED), c.get("brief")), (True, None))
# In binary, every touch that finds its key takes libmemcached the whole poll timeout, whoever the server is: one of them is enough.
if not binary:
    s.see("touch ends it", lambda: (c.touch("long", PASSED), c.get("long")), (True, None))
s.see("add over", lambda: c.add("key", b"other"), False)
s.see("add", lambda: c.add("new", b"v"), True)
s.see("replace", lambda: c.replace("new", b"w"), True)
s.see("replace of nothing", lambda: c.replace("missing", b"w"), begins("NotFound: ") if binary else False)
s.see("append", lambda: (c.append("new", b"z"), c.prepend("new", b"y"), c.get("new")), (True, True, b"ywz"))
s.see("append to nothing", lambda: c.append("missing", b"z"), False)
s.see("delete", lambda: (c.delete("new"), c.delete("new")), (True, False))
s.see("incr", lambda: (c.set("n", 10), c.incr("n", 5), c.decr("n", 20)), (True, 15, 0))
s.see("incr of nothing", lambda: c.incr("missing"), begins("NotFound: "))
value, cas = c.gets("key")
s.see("gets", value, b"value")
s.see("cas", lambda: c.cas("key", b"swapped", cas), True)
s.see("cas again", lambda: c.cas("key", b"swapped", cas), False)
many = {f"many{i}": b"%d" % i for i in range(1000)}
s.see("set_multi", lambda: c.set_multi(many), [])
s.see("get_multi", lambda: c.get_multi([*many, "missing"]) == many, True)
s.see("with a prefix", lambda: (c.set_multi({"1": b"a", "2": b"b"}, key_prefix="p_"), c.get_multi(["1", "2"], key_prefix="p_")), ([], {"1": b"a", "2": b"b"}))
s.see("add_multi", lambda: c.add_multi({"many1": b"x", "fresh": b"y"}), ["many1"])
s.see("delete_multi", lambda: (c.delete_multi(list(many)), c.get_multi(list(many))), (True, {}))
n = pylibmc.Client([place], binary=binary, behaviors={"no_block": True})
for i in range(1000):
    n.set(f"unblocked{i % 100}", b"%d" % i)
s.see("unblocked, in order", lambda: n.get_multi([f"unblocked{i}" for i in range(100)]), {f"unblocked{i}": b"%d" % (900 + i) for i in range(100)})
s.see("stats", lambda: {"pid", "curr_items", "get_hits", "threads"} <= c.get_stats()[0][1].keys(), True)
s.see("flush_all", lambda: (c.flush_all(), c.get("key")), (True, None))
s.end()
