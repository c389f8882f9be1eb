"""aiomcache, text protocol, many commands at once: aiomcache_steps.py HOST PORT."""

import asyncio
import sys

import aiomcache
from steps import ALL_BYTES, MIB, TOO_LARGE, Steps, begins


async def answer(waited):
    try:
        return await waited
    except Exception as e:  # Any error is an answer, too.
        return f"{type(e).__name__}: {e}"


async def main():
    c = aiomcache.FlagClient(sys.argv[1], int(sys.argv[2]), pool_size=4)
    s = Steps()

    async def see(name, due, *waited):
        got = tuple([await answer(w) for w in waited])
        s.see(name, got[0] if len(got) == 1 else got, due)

    async def with_flags(value):
        return value.encode(), 4_294_967_295

    async def by_flags(value, flags):
        return f"{value.decode()} of {flags}"

    f = aiomcache.FlagClient(sys.argv[1], int(sys.argv[2]), get_flag_handler=by_flags, set_flag_handler=with_flags)
    await see("flags", (True, "text of 4294967295"), f.set(b"flagged", "text"), f.get(b"flagged"))
    await f.close()
    await see("missing", None, c.get(b"missing"))
    await see("set", (True, b"value"), c.set(b"key", b"value"), c.get(b"key"))
    await see("all bytes", (True, ALL_BYTES), c.set(b"bytes", ALL_BYTES), c.get(b"bytes"))
    await see("empty", (True, b""), c.set(b"empty", b""), c.get(b"empty"))
    await c.set(b"large", MIB)
    s.see("1 MiB", await c.get(b"large") == MIB, True)
    await see("too large", begins("ClientException: "), c.set(b"large", TOO_LARGE))
    await see("not expired", (True, True, b"v"), c.set(b"long", b"v", exptime=1000), c.touch(b"long", 2000), c.get(b"long"))
    await see("touch of nothing", False, c.touch(b"missing", 1))
    await see("expired", (True, None), c.touch(b"long", -1), c.get(b"long"))
    await see("add", (False, True), c.add(b"key", b"o"), c.add(b"new", b"v"))
    await see("replace", (False, True), c.replace(b"missing", b"w"), c.replace(b"new", b"w"))
    await see("append", (True, True, b"ywz"), c.append(b"new", b"z"), c.prepend(b"new", b"y"), c.get(b"new"))
    await see("append to nothing", False, c.append(b"missing", b"z"))
    await see("delete", (True, False), c.delete(b"new"), c.delete(b"new"))
    await see("incr", (True, 15, 0), c.set(b"n", b"10"), c.incr(b"n", 5), c.decr(b"n", 20))
    await see("incr of nothing", begins("ClientException: "), c.incr(b"missing"))
    await see("incr of text", begins("ClientException: "), c.incr(b"key"))
    value, cas = await c.gets(b"key")
    s.see("gets", value, b"value")
    await see("cas", (True, False), c.cas(b"key", b"w", cas), c.cas(b"key", b"w", cas))
    keys = [b"many%d" % i for i in range(500)]
    s.see("500 sets at once", all(await asyncio.gather(*[c.set(k, k) for k in keys])), True)
    s.see("500 gets at once", await asyncio.gather(*[c.get(k) for k in keys]) == keys, True)
    s.see("multi_get", await c.multi_get(*keys, b"missing") == (*keys, None), True)
    await see("version", lambda v: len(v) > 0, c.version())
    s.see("stats", {b"pid", b"curr_items", b"get_hits", b"threads"} <= (await c.stats()).keys(), True)
    await see("flush_all", (None, None), c.flush_all(), c.get(b"key"))
    await c.close()
    s.end()


asyncio.run(main())
