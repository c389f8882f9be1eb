"""pymemcache, text protocol: pymemcache_steps.py HOST PORT, or PATH 0."""

import sys

from pymemcache import HashClient, PooledClient
from pymemcache.client.base import Client
from pymemcache.serde import pickle_serde
from steps import ALL_BYTES, MIB, TOO_LARGE, Steps, begins, server

place = server()
options = {"connect_timeout": 30, "timeout": 30, "no_delay": True}
c = Client(place, **options)
s = Steps()

s.see("missing", lambda: c.get("missing"), None)
s.see("missing with default", lambda: c.get("missing", b"default"), b"default")
s.see("set", lambda: c.set("key", b"value", noreply=False), True)
s.see("get", lambda: c.get("key"), b"value")
s.see("empty value", lambda: (c.set("empty", b"", noreply=False), c.get("empty")), (True, b""))
s.see("flags", lambda: c.raw_command(b"set flagged 4294967295 0 1\r\nx"), b"STORED")
s.see("flags read", lambda: c.raw_command(b"get flagged", end_tokens=b"END\r\n"), b"VALUE flagged 4294967295 1\r\nx\r\n")
s.see("all bytes", lambda: (c.set("bytes", ALL_BYTES, noreply=False), c.get("bytes") == ALL_BYTES), (True, True))
s.see("1 MiB", lambda: (c.set("large", MIB, noreply=False), c.get("large") == MIB), (True, True))
s.see("too large", lambda: c.set("large", TOO_LARGE, noreply=False), begins("MemcacheServerError: b'object too large"))
s.see("too large removes", lambda: c.get("large"), None)
s.see("expired", lambda: (c.set("brief", b"v", expire=-1, noreply=False), c.get("brief")), (True, None))
s.see("not expired", lambda: (c.set("long", b"v", expire=1000, noreply=False), c.get("long")), (True, b"v"))
s.see("touch", lambda: c.touch("long", 2000, noreply=False), True)
s.see("touch of nothing", lambda: c.touch("missing", 1, noreply=False), False)
s.see("touch ends it", lambda: (c.touch("long", -1, noreply=False), c.get("long")), (True, None))
s.see("add over", lambda: c.add("key", b"other", noreply=False), False)
s.see("add", lambda: c.add("new", b"v", noreply=False), True)
s.see("replace", lambda: c.replace("new", b"w", noreply=False), True)
s.see("replace of nothing", lambda: c.replace("missing", b"w", noreply=False), False)
s.see("append", lambda: (c.append("new", b"z", noreply=False), c.prepend("new", b"y", noreply=False)), (True, True))
s.see("appended", lambda: c.get("new"), b"ywz")
s.see("append to nothing", lambda: c.append("missing", b"z", noreply=False), False)
s.see("delete", lambda: c.delete("new", noreply=False), True)
s.see("delete again", lambda: c.delete("new", noreply=False), False)
s.see("incr", lambda: (c.set("n", b"10", noreply=False), c.incr("n", 5), c.decr("n", 20)), (True, 15, 0))
s.see("incr wraps", lambda: (c.set("n", b"18446744073709551615", noreply=False), c.incr("n", 2)), (True, 1))
s.see("incr of nothing", lambda: c.incr("missing", 1), None)
s.see("incr of text", lambda: c.incr("key", 1), begins("MemcacheClientError: b'cannot increment or decrement"))
value, cas = c.gets("key")
s.see("gets", value, b"value")
s.see("cas", lambda: c.cas("key", b"swapped", cas, noreply=False), True)
s.see("cas again", lambda: c.cas("key", b"swapped", cas, noreply=False), False)
s.see("cas of nothing", lambda: c.cas("missing", b"v", cas, noreply=False), None)
many = {f"many{i}": b"%d" % i for i in range(1000)}
s.see("set_many", lambda: c.set_many(many, noreply=False), [])
s.see("get_many", lambda: c.get_many([*many, "missing"]) == many, True)
s.see("gets_many", lambda: {k: v[0] for k, v in c.gets_many(list(many)[:3]).items()}, dict(list(many.items())[:3]))
s.see("delete_many", lambda: (c.delete_many(list(many), noreply=False), c.get_many(list(many))), (True, {}))
for i in range(2000):
    c.set(f"noreply{i % 100}", b"%d" % i, noreply=True)
s.see("noreply, in order", lambda: c.get_many([f"noreply{i}" for i in range(100)]),
      {f"noreply{i}": b"%d" % (1900 + i) for i in range(100)})
s.see("key of 250 bytes", lambda: (c.set("k" * 250, b"v", noreply=False), c.get("k" * 250)), (True, b"v"))
u = Client(place, allow_unicode_keys=True, **options)
s.see("key beyond ASCII", lambda: (u.set("schlüssel", b"v", noreply=False), u.get("schlüssel")), (True, b"v"))
p = PooledClient(place, serde=pickle_serde, max_pool_size=4, **options)
s.see("pool, pickled", lambda: (p.set("object", {"a": [1, None]}), p.get("object")), (True, {"a": [1, None]}))
h = HashClient([place], **options)
s.see("hash client", lambda: (h.set_many({"h1": b"1", "h2": b"2"}), h.get_many(["h1", "h2"])), ([], {"h1": b"1", "h2": b"2"}))
s.see("version", lambda: len(c.version()) > 0, True)
s.see("stats", lambda: {b"pid", b"curr_items", b"get_hits", b"threads"} <= c.stats().keys(), True)
s.see("flush_all", lambda: (c.flush_all(noreply=False), c.get("key")), (True, None))
s.see("quit", lambda: c.quit(), None)
s.end()
