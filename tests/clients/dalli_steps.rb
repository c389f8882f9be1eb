# Dalli: ruby dalli_steps.rb HOST PORT binary|meta.

require "dalli"

ALL_BYTES = (0..255).to_a.pack("C*")
MIB = ALL_BYTES * 4096
$wrong = 0

# Prints the answer of a step; `due` is a value, or a class of error.
def see(name, due)
  got = begin
    yield
  rescue StandardError => e
    e.class
  end
  fine = got == due
  $wrong += 1 unless fine
  shown = got.inspect
  shown = "#{shown[0, 60]}... of #{shown.length}" if shown.length > 150
  puts "#{name}: #{shown}#{" WRONG" unless fine}"
end

host, port, protocol = ARGV
options = { protocol: protocol.to_sym, socket_timeout: 30, value_max_bytes: 4 << 20, socket_max_failures: 0 }
c = Dalli::Client.new("#{host}:#{port}", options)
raw = { raw: true }

see("missing", nil) { c.get("missing") }
see("set", [true, "value"]) { [c.set("key", "value") > 0, c.get("key")] }
see("object by its flags", [true, { "a" => [1, nil] }]) { [c.set("object", { "a" => [1, nil] }) > 0, c.get("object")] }
see("raw", "text") { c.set("raw", "text", 0, raw); c.get("raw", raw) }
see("empty", "") { c.set("empty", "", 0, raw); c.get("empty", raw) }
see("all bytes", true) { c.set("bytes", ALL_BYTES, 0, raw); c.get("bytes", raw).b == ALL_BYTES }
see("compressed", true) { c.set("zip", "a" * 100_000, 0, compress: true); c.get("zip") == "a" * 100_000 }
see("1 MiB", true) { c.set("large", MIB, 0, raw: true, compress: false); c.get("large", raw).b == MIB }
see("too large", Dalli::DalliError) { c.set("large", Random.bytes(3 << 20), 0, raw: true, compress: false) }
see("goes on", "value") { c.get("key") }
see("not expired", "v") { c.set("long", "v", 1000); c.get("long") }
# It makes a time to come of one that has passed.
see("expired", nil) do
  c.set("brief", "v", 1)
  ends = Time.now + 20
  sleep 0.05 while c.get("brief") && Time.now < ends
  c.get("brief")
end
see("touch", true) { c.touch("long", 2000) }
see("touch of nothing", nil) { c.touch("missing", 1) }
see("gat", "v") { c.gat("long", 3000) }
see("gat of nothing", nil) { c.gat("missing", 3000) }
see("add over", false) { c.add("key", "other") }
see("add", true) { c.add("new", "v", 0, raw) > 0 }
see("replace", true) { c.replace("new", "w", 0, raw) > 0 }
see("replace of nothing", 0) { c.replace("missing", "w") }
see("append", "ywz") { c.append("new", "z"); c.prepend("new", "y"); c.get("new", raw) }
see("append to nothing", false) { c.append("missing", "z") }
see("delete", [true, nil]) { [c.delete("new"), c.delete("new")] }
see("incr creates", [10, 15, 0]) { [c.incr("n", 5, nil, 10), c.incr("n", 5), c.decr("n", 20)] }
see("incr of nothing", nil) { c.incr("missing", 1) }
see("cas", [true, "VALUE"]) { [c.cas("key", &:upcase) > 0, c.get("key")] }
see("cas of nothing", nil) { c.cas("missing") { "v" } }
see("cas behind another's set", [false, "theirs"]) { [c.cas("key") { c.set("key", "theirs"); "ours" }, c.get("key")] }
see("fetch", [1, 1]) { [c.fetch("fetched") { 1 }, c.fetch("fetched") { 2 }] }
# Newer versions call it `quiet`.
see("quiet, in order", (900..999).to_a) do
  c.multi { 1000.times { |i| c.set("quiet#{i % 100}", i) } }
  c.get_multi((0...100).map { |i| "quiet#{i}" }).values.sort
end
many = (0...1000).map { |i| "many#{i}" }
see("get_multi", true) do
  c.multi { many.each { |k| c.set(k, k) } }
  c.get_multi(*many, "missing") == many.to_h { |k| [k, k] }
end
see("get_multi_cas", %w[many1 many2]) { c.get_multi_cas("many1", "many2", "missing").values.map(&:first).sort }
see("key of 250 bytes", "v") { c.set("k" * 250, "v"); c.get("k" * 250) }
see("key beyond ASCII", "v") { c.set("schlüssel", "v"); c.get("schlüssel") }
n = Dalli::Client.new("#{host}:#{port}", options.merge(namespace: "app"))
see("namespace", %w[v v]) { n.set("key", "v"); [n.get("key"), c.get("app:key")] }
see("version", true) { !c.version.values.first.to_s.empty? }
see("stats", []) { %w[pid curr_items get_hits threads] - c.stats.values.first.keys }
see("flush", [true, nil]) { [c.flush.all?, c.get("key")] }
c.close
puts "end"
exit($wrong == 0)
