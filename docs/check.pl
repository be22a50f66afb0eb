#!/usr/bin/perl
# docs/check.pl MODE ARGUMENTS -- reads the pages and compares them with the truth
#
# static               links, index, META.json, licence, roadmap; needs no server
# catalogue DATABASE   settings, errors and names against the database
# footprint DATABASE   what docs/footprint.sql measures against README.md
# symbols LIBRARY      what README.md says of the network
# run PAGE...          runs the blocks of pages and compares their output; the page as
#                      it should read is written below ./pages, or ../pages
#
# Prints "ok - ..." and "not ok - ..." lines. docs/contributing.md describes the blocks.
use strict;
use warnings;

use File::Basename qw(dirname);
use File::Path qw(make_path);
use JSON::PP;

my $top = $ENV{GN_SRC} or die "GN_SRC is not set\n";
my $written = "$ENV{GN_WORK}/docs/pages";
my $marker = '--gn-docs-marker--';

sub point
{
	my ($good, $claim, @why) = @_;
	print $good ? 'ok' : 'not ok', " - $claim\n";
	print "#   $_\n" foreach $good ? () : @why;
	return $good;
}

sub slurp
{
	my ($file) = @_;
	open(my $in, '<:encoding(UTF-8)', "$top/$file") or die "$file: $!\n";
	local $/;
	return scalar <$in>;
}

sub pages
{
	return ('README.md', map { s,^\Q$top\E/,,r } sort glob "$top/docs/*.md");
}

# blocks(TEXT): every fenced block: info, lines, and the index of its first line and fences
sub blocks
{
	my @lines = split /\n/, shift;
	my (@blocks, $open);

	foreach my $i (0 .. $#lines)
	{
		if ($open && $lines[$i] =~ /^\Q$open->{fence}\E`*\s*$/)
		{
			$open->{end} = $i;
			push @blocks, $open;
			undef $open;
		}
		elsif ($open)
		{
			push @{ $open->{lines} }, $lines[$i];
		}
		elsif ($lines[$i] =~ /^(```+)\s*(.*?)\s*$/)
		{
			$open = { fence => $1, info => $2, start => $i, lines => [] };
		}
	}
	die "a fenced block is not closed: line " . ($open->{start} + 1) . "\n" if $open;
	return @blocks;
}

# prose(TEXT): the page without its blocks
sub prose
{
	my ($text) = @_;
	my @lines = split /\n/, $text;
	foreach my $block (blocks($text))
	{
		$lines[$_] = '' foreach $block->{start} .. $block->{end};
	}
	return join "\n", @lines;
}

# tables(TEXT, HEADING): cells of every row of the tables whose first heading that is
sub rows
{
	my ($text, $heading) = @_;
	my ($inside, @rows);

	foreach my $line (split /\n/, $text)
	{
		if ($line !~ /^\|/)
		{
			$inside = 0;
			next;
		}
		my @cells = map { s/^\s+|\s+$//gr } split /(?<!\\)\|/, $line =~ s/^\||\|\s*$//gr, -1;
		if (!$inside)
		{
			$inside = $cells[0] eq $heading ? 1 : -1;
		}
		elsif ($inside > 0 && $line !~ /^[|\s:-]+$/)
		{
			push @rows, \@cells;
		}
	}
	return @rows;
}

# ---- static ---------------------------------------------------------------------

# The anchor that a heading gets.
sub anchor
{
	my ($heading) = @_;
	$heading = lc $heading;
	$heading =~ s/[^\w\s-]//g;
	$heading =~ s/\s/-/g;
	return $heading;
}

sub check_links
{
	foreach my $page (pages())
	{
		my $text = prose(slurp($page));
		my @bad;
		while ($text =~ /\]\(([^)\s]+)\)/g)
		{
			my ($path, $fragment) = split /#/, $1, 2;
			next if $path =~ /^[a-z]+:/;
			my $target = $path eq '' ? $page : dirname($page) eq '.' ? $path : dirname($page) . "/$path";
			if (!-e "$top/$target")
			{
				push @bad, $1;
			}
			elsif (defined $fragment && $target =~ /\.md$/)
			{
				my %anchors = map { anchor($_) => 1 } prose(slurp($target)) =~ /^#+ +(.*?)\s*$/mg;
				push @bad, $1 unless $anchors{$fragment};
			}
		}
		point(!@bad, "$page: every relative link leads somewhere", @bad);
	}
}

sub check_static
{
	check_links();

	my $index = slurp('docs/index.md');
	my @orphans = grep { !m,/index\.md$, && m,^docs/(.*), && $index !~ /\(\Q$1\E/ } pages();
	point(!@orphans, 'docs/index.md leads to every page', @orphans);

	my $meta = eval { decode_json(slurp('META.json')) } || {};
	point(!$@, 'META.json is JSON', $@);
	my @missing = grep { !$meta->{$_} } qw(name version abstract maintainer license provides meta-spec);
	point(!@missing, 'META.json has what PGXN asks for', @missing);
	point(-e "$top/$meta->{provides}{grownext}{file}" && -e "$top/$meta->{provides}{grownext}{docfile}",
		'META.json names files that exist');
	point(scalar(slurp('LICENSE') =~ /\APostgreSQL License\n\nCopyright \(c\) 2026, GrowNext contributors\n/),
		'LICENSE is the PostgreSQL licence');

	my $check = slurp('docs/check');
	my @idle = grep { slurp($_) =~ /^```sql run\b/m && $check !~ /\b\Q$_\E\b/ } pages();
	point(!@idle, 'docs/check runs every page that has blocks to run', @idle);

	# Every initiative of the roadmap that started the project stays, with where it stands.
	my %standing = map { $_->[0] => $_->[2] } rows(slurp('docs/roadmap.md'), 'Initiative');
	my @lost = grep { ($standing{$_} // '') !~ /^(Shipped|Partly|Planned): \S/ } (
		'Operational SLOs & Incident Automation', 'Observability & Alerting',
		'High Availability & Disaster Recovery', 'Billing Integration',
		'Self-Serve Tenant Provisioning', 'Additional First-Party Apps',
		'Public APIs & Mobile', 'Task Automation Enhancements',
		'Audit Log Retention & Export', 'Data Residency & Privacy Controls',
		'Security Hardening', 'Scaffolding & Generators',
		'Testing Framework Expansion', 'Developer Portal');
	point(!@lost, 'docs/roadmap.md says of every initiative where it stands', @lost);
}

# ---- catalogue --------------------------------------------------------------------

# query(DATABASE, SQL): rows of cells
sub query
{
	my ($database, $sql) = @_;
	open(my $out, '-|:encoding(UTF-8)', 'psql', '-X', '-q', '-A', '-t', '-F', "\t", '-v', 'ON_ERROR_STOP=1',
		'-d', $database, '-c', $sql) or die "psql: $!\n";
	my @rows = map { chomp; [ split /\t/, $_, -1 ] } <$out>;
	close($out) or die "psql failed\n";
	return @rows;
}

# same(CLAIM, {expected}, {got}): hashes of strings
sub same
{
	my ($claim, $expected, $got) = @_;
	my %keys = (%$expected, %$got);
	my @bad = map { "$_: server " . ($expected->{$_} // 'does not have it') . ', page ' . ($got->{$_} // 'does not have it') }
		grep { ($expected->{$_} // '') ne ($got->{$_} // '') || !exists $expected->{$_} || !exists $got->{$_} } sort keys %keys;
	return point(!@bad, $claim, @bad);
}

sub check_catalogue
{
	my ($database) = @_;

	my %settings = map { $_->[0] => "[$_->[1]] [$_->[2]] [$_->[3]]" } query($database,
		"SELECT name, coalesce(unit, ''), coalesce(nullif(boot_val, ''), 'empty'), context FROM pg_settings WHERE name LIKE 'grownext.%'");
	$settings{'grownext.context'} = '[] [empty] [superuser]'; # hidden from pg_settings
	my %page = map { $_->[0] =~ s/`//gr => "[$_->[1]] [$_->[2]] [$_->[3]]" } rows(slurp('docs/settings.md'), 'Setting');
	same('docs/settings.md lists every setting with unit, default and context', \%settings, \%page);

	my @errors = rows(slurp('docs/errors.md'), 'Code');
	my %registry = map { $_->[0] => "$_->[1] $_->[2]" } query($database, "SELECT code, name, coalesce(http::text, '-') FROM _grownext.core_errors()");
	same('docs/errors.md lists every code of class NX with name and HTTP status', \%registry,
		{ map { $_->[0] => "$_->[1] $_->[2]" } @errors });
	my @empty = grep { @$_ != 5 || $_->[3] eq '' || $_->[4] eq '' } @errors;
	point(!@empty, 'docs/errors.md says of every code when it is raised and how to mend it', map { $_->[0] } @empty);

	# What nothing raises is called reserved, and nothing else is.
	my $source = join '', map { slurp(s,^\Q$top\E/,,r) } glob("$top/src/*/*.c"), glob("$top/src/*/*.sql"), glob("$top/src/*.sql");
	my @wrong;
	foreach my $error (@errors)
	{
		my ($code, $name) = @$error;
		my $raised = $source =~ /\bGN_ERRCODE_\U$name\E\b/ || $source =~ /'$code'/;
		push @wrong, "$code is " . ($raised ? '' : 'not ') . 'raised' if $raised == ($error->[3] =~ /^\*Reserved\*/ ? 1 : 0);
	}
	point(!@wrong, 'docs/errors.md marks exactly the reserved codes', @wrong);

	# Names: every function has an entry, and no page names what does not exist.
	my %manual = map { $_ => slurp($_) } pages();
	my @functions = query($database, <<'SQL');
SELECT DISTINCT n.nspname, p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
  JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  JOIN pg_extension AS e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'grownext'
 WHERE n.nspname IN ('grownext', 'grownext_api') ORDER BY 1, 2
SQL
	my $manual = join "\n", map { $manual{$_} } grep { m,^docs/, && !m,^docs/(index|roadmap|errors|quickstart)\.md$, } keys %manual;
	my @undocumented = map { "$_->[0].$_->[1]" } grep { $manual !~ /\b\Q$_->[1]\E\(/ } @functions;
	point(!@undocumented, scalar(@functions) . ' functions of the catalogue have an entry in some page', @undocumented);

	my @views = query($database, "SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname IN ('grownext', 'grownext_api') AND c.relkind IN ('v', 'c')");
	my @unshown = map { "$_->[0].$_->[1]" } grep { $manual !~ /\b\Q$_->[1]\E\b/ } @views;
	point(!@unshown, scalar(@views) . ' views and types have an entry in some page', @unshown);

	my %known = map { $_ => 1 } (keys %settings, map { "$_->[0].$_->[1]" } @functions, @views);
	$known{"grownext.$_"} = 1 foreach qw(control so c h conf context);
	my @unknown;
	foreach my $page (sort keys %manual)
	{
		while ($manual{$page} =~ m,(?<![\w/.])((?:grownext|grownext_api)\.[a-z]\w*)(?!\w|\.?\*),g)
		{
			push @unknown, "$page: $1" unless $known{$1};
		}
	}
	# Unqualified calls too, in the pages that no component owns.
	my %called = map { $_->[0] => 1 } query($database, 'SELECT DISTINCT proname FROM pg_proc');
	foreach my $page ('README.md', map { "docs/$_.md" } qw(context errors index install operations quickstart security settings))
	{
		my $text = prose($manual{$page});
		while ($text =~ /`([a-z]\w*)\(/g)
		{
			push @unknown, "$page: $1()" unless $called{$1};
		}
	}
	point(!@unknown, 'the pages name nothing that does not exist', @unknown);
}

# ---- footprint --------------------------------------------------------------------

sub check_footprint
{
	my ($database) = @_;
	my $text = psql({ user => 'acme_service', db => $database }, slurp('docs/footprint.sql'), '-A', '-t');
	my %page = map { $_->[0] => $_->[1] } rows(slurp('README.md'), 'Operation');
	my %measured = $text =~ /^\| (.*?) \| (\d+) \|$/mg;
	my @bad = map { "$_: README.md " . ($page{$_} // 'does not have it') . ', measured ' . ($measured{$_} // 'not') }
		grep {
			my ($is, $said) = ($measured{$_}, $page{$_});
			# Page splits and server versions move the figures a little.
			!defined $is || !defined $said || abs($is - $said) > ($said == 0 ? 0 : 16 + 0.2 * $said)
		} sort keys %{ { %page, %measured } };
	point(!@bad && %measured, 'README.md says how much WAL an operation writes', @bad, %measured ? () : split(/\n/, $text));
}

sub check_symbols
{
	my ($library) = @_;
	my $symbols = `nm -D --undefined-only '$library'`;
	my @network = $symbols =~ /\b((?:socket|connect|bind|listen|accept4?|send\w*|recv\w*|getaddrinfo|gethostby\w*|PQ\w+|curl_\w+|BIO_\w*(?:connect|socket)\w*|SSL_\w+))\b/mg;
	point($symbols ne '' && !@network, 'the library imports no network function', @network);
}

# ---- run ----------------------------------------------------------------------------

# psql(SESSION, INPUT, OPTIONS...): what it prints, notices and errors in their place
sub psql
{
	my ($session, $input, @options) = @_;
	my $file = "$ENV{GN_WORK}/docs/input.sql";

	open(my $out, '>:encoding(UTF-8)', $file) or die "$file: $!\n";
	print $out "\\set SHOW_CONTEXT never\n$input";
	close($out);
	local $ENV{PGUSER} = $session->{user};
	open(my $pipe, '-|:encoding(UTF-8)', "psql -X -q -P pager=off @options -d '$session->{db}' <'$file' 2>&1") or die "psql: $!\n";
	local $/;
	my $text = <$pipe>;
	close($pipe);
	return $text // '';
}

# statements(LINES): each with its lines, and what is expected behind "-->"
sub statements
{
	my (@statements, $open, $quote);

	foreach my $line (@_)
	{
		my ($code, $expected) = $line =~ /^(.*?)\s*-->\s?(.*)$/ ? ($1, $2) : ($line, undef);
		if ($code eq '' && defined $expected)
		{
			die "output without a statement: $line\n" unless @statements;
			push @{ $statements[-1]{expected} }, $expected;
			next;
		}
		push @statements, $open = { lines => [], expected => [] } unless $open;
		push @{ $open->{lines} }, $code;
		push @{ $open->{expected} }, $expected if defined $expected;
		foreach my $tag ($code =~ /(\$\w*\$)/g)
		{
			$quote = !defined $quote ? $tag : $quote eq $tag ? undef : $quote;
		}
		my $bare = $code =~ s/\s*--.*$//r;
		undef $open if !defined $quote && ($bare =~ /;\s*$/ || $bare =~ /^\\/ || $bare =~ /\\g\w*(\s.*)?$/);
	}
	return @statements;
}

sub trimmed
{
	my @lines = map { s/\s+$//r } @_;
	pop @lines while @lines && $lines[-1] eq '';
	shift @lines while @lines && $lines[0] eq '';
	return @lines;
}

# fits(GOT, EXPECTED): equal, where "..." stands for anything
sub fits
{
	my ($got, $expected) = @_;
	my $pattern = join '.*', map { quotemeta } split /\.\.\./, $expected, -1;
	return $got =~ /^$pattern$/;
}

sub all_fit
{
	my ($got, $expected) = @_;
	return @$got == @$expected && !grep { !fits($got->[$_], $expected->[$_]) } 0 .. $#$got;
}

# without_void(TEXT): results of functions that return nothing say nothing
sub without_void
{
	my ($text) = @_;
	$text =~ s/^ \w+ *\n-+\n *\n\(1 row\)\n\n?//mg;
	return $text;
}

sub difference
{
	my ($got, $expected) = @_;
	return ((map { "expected: $_" } @$expected), (map { "printed:  $_" } @$got));
}

# A block with its output behind "-->": returns the block's lines as they should be.
sub run_inline
{
	my ($claim, $session, @lines) = @_;
	my @statements = statements(@lines);
	my $input = join '', map { join("\n", @{ $_->{lines} }) . "\n\\echo $marker\n" } @statements;
	my @outputs = split /^\Q$marker\E\n/m, psql($session, $input, '-A', '-t', "-F ' | '"), -1;
	my (@should, @why);

	foreach my $i (0 .. $#statements)
	{
		my $statement = $statements[$i];
		my @got = grep { $_ ne '' } trimmed(split /\n/, $outputs[$i] // '(psql ended)');
		my $expected = $statement->{expected};
		if (!all_fit(\@got, $expected))
		{
			push @why, $statement->{lines}[-1], difference(\@got, $expected);
			$expected = \@got;
		}
		my @code = @{ $statement->{lines} };
		if (@$expected == 1 && length("$code[-1]  --> $expected->[0]") <= 120)
		{
			push @should, @code[0 .. $#code - 1], "$code[-1]  --> $expected->[0]";
		}
		else
		{
			push @should, @code, map { "--> $_" } @$expected;
		}
	}
	point(!@why, $claim, @why);
	return @should;
}

sub run_page
{
	my ($page) = @_;
	my $text = slurp($page);
	my @lines = split /\n/, $text;
	my @blocks = blocks($text);
	my $session = { user => 'postgres', db => 'postgres' };
	my @edits;

	foreach my $i (0 .. $#blocks)
	{
		my $block = $blocks[$i];
		next unless $block->{info} =~ /^sql run\b(.*)/;
		$session->{$1} = $2 while $block->{info} =~ /\b(user|db)=(\w+)/g;
		my $claim = "$page:" . ($block->{start} + 1) . " prints what it shows";
		my $next = $blocks[ $i + 1 ];
		if ($next && $next->{info} eq 'output' && !grep { /\S/ } @lines[ $block->{end} + 1 .. $next->{start} - 1 ])
		{
			my @got = trimmed(split /\n/, without_void(psql($session, join("\n", @{ $block->{lines} }) . "\n")));
			my @expected = trimmed(@{ $next->{lines} });
			my $good = all_fit(\@got, \@expected);
			point($good, $claim, difference(\@got, \@expected));
			push @edits, [ $next, $good ? @{ $next->{lines} } : @got ];
		}
		else
		{
			push @edits, [ $block, run_inline($claim, $session, @{ $block->{lines} }) ];
		}
	}
	point(scalar(@edits), "$page has blocks to run");
	foreach my $edit (reverse @edits)
	{
		my ($block, @new) = @$edit;
		splice(@lines, $block->{start} + 1, $block->{end} - $block->{start} - 1, @new);
	}
	write_page($page, join("\n", @lines) . "\n");
}

sub write_page
{
	my ($page, $text) = @_;
	make_path(dirname("$written/$page"));
	open(my $out, '>:encoding(UTF-8)', "$written/$page") or die "$written/$page: $!\n";
	print $out $text;
	close($out);
}

# chunks(TEXT): a runnable file as prose and code by turns. Prose is comment lines that
# begin a paragraph in the first column; "-- hidden" keeps the code below it off the page.
sub chunks
{
	my (@chunks, $before);

	$before = '';
	foreach my $line (split /\n/, shift)
	{
		my $kind = $line =~ /^--( |$)/ && ($before eq '' || (@chunks && $chunks[-1]{kind} eq 'prose')) ? 'prose' : 'code';
		$kind = $chunks[-1]{kind} if $line eq '' && @chunks;
		push @chunks, { kind => $kind, lines => [] } if !@chunks || $chunks[-1]{kind} ne $kind;
		push @{ $chunks[-1]{lines} }, $line;
		$before = $line;
	}
	return @chunks;
}

# A page that is made of a runnable file, run as one session of psql.
sub run_file
{
	my ($file) = @_;
	my $page = $file =~ s/\.sql$/.md/r;
	my @chunks = chunks(slurp($file));
	my $input = join '', map { $_->{kind} eq 'code' ? join("\n", @{ $_->{lines} }) . "\n\\echo $marker\n" : '' } @chunks;
	my ($session) = slurp($file) =~ /^-- runs as (\w+) in database \w+/m;
	my ($database) = slurp($file) =~ /^-- runs as \w+ in database (\w+)/m;
	my @outputs = split /^\Q$marker\E\n/m, psql({ user => $session, db => $database }, $input), -1;
	my @page = ("<!-- made from " . ($file =~ s,.*/,,r) . " by docs/check; edit that file -->");
	my $hidden = 0;

	foreach my $chunk (@chunks)
	{
		my @lines = trimmed(@{ $chunk->{lines} });
		if ($chunk->{kind} eq 'prose')
		{
			$hidden = grep { $_ eq '-- hidden' } @lines;
			push @page, '', grep { $_ ne 'hidden' && !/^runs as \w+ in database/ } map { s/^-- ?//r } @lines;
			next;
		}
		my @got = trimmed(split /\n/, without_void(shift(@outputs) // '(psql ended)'));
		if ($hidden)
		{
			point(!@got, "$file: what is not shown prints nothing", @got);
			next;
		}
		push @page, '', '```sql', @lines, '```';
		push @page, '', '```output', @got, '```' if @got;
	}
	my @should = split /\n/, join("\n", @page) =~ s/\n{3,}/\n\n/gr;
	my @is = -e "$top/$page" ? split(/\n/, slurp($page)) : ();
	my $good = all_fit(\@should, \@is);
	point($good, "$page is what $file says and prints",
		map { 'line ' . ($_ + 1) . ": page \"" . ($is[$_] // '') . '", run "' . ($should[$_] // '') . '"' }
			grep { !fits($should[$_] // '', $is[$_] // '') } 0 .. ($#should > $#is ? $#should : $#is));
	write_page($page, join("\n", $good ? @is : @should) . "\n");

	# An application needs no superuser, and the page proves it.
	my @roles = ($session, slurp($file) =~ /^\\c(?:onnect)? - (\w+)/mg);
	my ($super) = query($database, "SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname = ANY ('{" . join(',', @roles) . "}')");
	point($super->[0] == 0, "$file needs no superuser");
}

binmode(STDOUT, ':encoding(UTF-8)');
$| = 1;
my $mode = shift // '';
if ($mode eq 'static') { check_static() }
elsif ($mode eq 'catalogue') { check_catalogue(@ARGV) }
elsif ($mode eq 'footprint') { check_footprint(@ARGV) }
elsif ($mode eq 'symbols') { check_symbols(@ARGV) }
elsif ($mode eq 'run') { ($_ =~ /\.sql$/ ? run_file($_) : run_page($_)) foreach @ARGV }
else { die "usage: docs/check.pl static | catalogue DATABASE | footprint DATABASE | symbols LIBRARY | run PAGE...\n" }
