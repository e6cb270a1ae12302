use strict; use IO::Select; $| = 1;
my (%sum, $s); $s = IO::Select->new;
for my $n (1 .. 4) {
    pipe(my $r, my $w) or die; my $pid = fork;
    if (!$pid) { close $r; for my $i (1 .. 30) { syswrite $w, pack("NN", $n, $i * $n); select undef, undef, undef, 0.006 } exit $n }
    close $w; $s->add($r);
}
while ($s->count) {
    for my $r ($s->can_read) {
        my $got = sysread $r, my $b, 8;
        if (!$got) { $s->remove($r); close $r; next }
        sysread $r, $b, 8 - length $b, length $b while length $b < 8;
        my ($n, $v) = unpack "NN", $b; $sum{$n} += $v;
    }
}
my @codes; while ((my $p = wait) > 0) { push @codes, $? >> 8 }
print join(",", map "$_=$sum{$_}", sort keys %sum), " ", join(",", sort @codes), "\n";
