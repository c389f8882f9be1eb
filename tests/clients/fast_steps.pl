# Cache::Memcached::Fast, text protocol: perl fast_steps.pl HOST PORT.

use strict;
use warnings;
use Cache::Memcached::Fast;
use Data::Dumper;

$Data::Dumper::Indent = 0;
$Data::Dumper::Terse = 1;
$Data::Dumper::Sortkeys = 1;
$Data::Dumper::Useqq = 1;
$| = 1;

my $wrong = 0;

# Prints the answers of a step, which are due as they stand.
sub see {
    my ($name, $due, @got) = @_;
    my ($want, $have) = (Dumper($due), Dumper(\@got));
    my $fine = $want eq $have;
    $wrong++ unless $fine;
    $have = substr($have, 0, 60) . "... of " . length($have) if length($have) > 150;
    print "$name: $have", $fine ? "" : " WRONG", "\n";
}

my ($host, $port) = @ARGV;
# Timeouts are in seconds. A server that failed is asked again at once.
my $c = Cache::Memcached::Fast->new({
    servers => ["$host:$port"], connect_timeout => 30, io_timeout => 30, max_failures => 0, nowait => 0,
    compress_threshold => -1, max_size => 4 << 20,
});
my $bytes = join "", map { chr } 0 .. 255;
my $mib = $bytes x 4096;

sub yes { return map { !defined $_ ? undef : $_ ? 1 : 0 } @_ }

see("missing", [undef], scalar $c->get("missing"));
see("set", [1, "value"], yes($c->set("key", "value")), $c->get("key"));
see("object by its flags", [1, { a => [1, undef] }], yes($c->set("object", { a => [1, undef] })), $c->get("object"));
see("empty", [1, ""], yes($c->set("empty", "")), $c->get("empty"));
see("all bytes", [1, 1], yes($c->set("bytes", $bytes), $c->get("bytes") eq $bytes));
see("1 MiB", [1, 1], yes($c->set("large", $mib), $c->get("large") eq $mib));
see("too large", [undef], scalar $c->set("large", "x" x (3 << 20)));
see("goes on", ["value"], $c->get("key"));
see("expired", [1, undef], yes($c->set("brief", "v", -1)), scalar $c->get("brief"));
see("touch", [1, 1, "v"], yes($c->set("long", "v", 1000), $c->touch("long", 2000)), $c->get("long"));
see("touch of nothing", [0], yes($c->touch("missing", 1)));
see("gat", ["v", undef], $c->gat(1000, "long"), scalar $c->gat(1000, "missing"));
see("add", [0, 1], yes($c->add("key", "other"), $c->add("new", "v")));
see("replace", [0, 1], yes($c->replace("missing", "w"), $c->replace("new", "w")));
see("append", [1, 1, "ywz"], yes($c->append("new", "z"), $c->prepend("new", "y")), $c->get("new"));
see("append to nothing", [0], yes($c->append("missing", "z")));
see("delete", [1, 0], yes($c->delete("new"), $c->delete("new")));
see("incr", [1, "15", "0"], yes($c->set("n", 10)), "" . $c->incr("n", 5), "" . ($c->decr("n", 20) + 0));
see("incr of nothing", [0], yes($c->incr("missing", 1)));
my ($cas, $value) = @{ $c->gets("key") };
see("gets", ["value"], $value);
see("cas", [1, 0], yes($c->cas("key", $cas, "swapped"), $c->cas("key", $cas, "swapped")));
my @many = map { "many$_" } 0 .. 999;
see("set_multi", ["1000"], "" . grep { $_ } values %{ $c->set_multi(map { [$_, $_] } @many) });
my $found = $c->get_multi(@many, "missing");
see("get_multi", ["1000", "1000"], "" . keys %$found, "" . grep { $found->{$_} eq $_ } keys %$found);
see("gets_multi", ["2"], "" . keys %{ $c->gets_multi("many1", "many2", "missing") });
see("incr_multi", ["0"], "" . grep { $_ } values %{ $c->incr_multi("absent1", "absent2") });
see("delete_multi", ["1000"], "" . grep { $_ } values %{ $c->delete_multi(@many) });
my $n = Cache::Memcached::Fast->new({ servers => ["$host:$port"], io_timeout => 30, nowait => 1, namespace => "app:" });
$n->set("noreply" . $_ % 100, $_) for 0 .. 999;
$n->nowait_push;
$found = $n->get_multi(map { "noreply$_" } 0 .. 99);
see("noreply, in order", ["100"], "" . grep { $found->{"noreply$_"} == 900 + $_ } 0 .. 99);
see("namespace", ["900"], $c->get("app:noreply0"));
see("key of 250 bytes", [1, "v"], yes($c->set("k" x 250, "v")), $c->get("k" x 250));
see("version", [1], yes((values %{ $c->server_versions })[0]));
see("flush_all", [1, undef], yes((values %{ $c->flush_all })[0]), scalar $c->get("key"));
print "end\n";
exit($wrong ? 1 : 0);
