# test/bench/lib/bench.sh -- what benchmarks share; sourced by bash
set -euo pipefail

GN_BENCH_SECONDS=${GN_BENCH_SECONDS:-5}
GN_BENCH_ROUNDS=${GN_BENCH_ROUNDS:-3}
claims=0

# tps CLIENTS FILE: transactions per second of a pgbench script, in one run
tps()
{
	local out
	out=$(pgbench -n -M prepared -c "$1" -j "$(($1 < 2 ? 1 : 2))" -T "$GN_BENCH_SECONDS" -f "$2" 2>&1) ||
		{ printf '%s\n' "$out" >&2; return 1; }
	if grep -q 'client .* aborted' <<<"$out"; then
		printf '%s\n' "$out" >&2
		return 1
	fi
	sed -n 's/^tps = \([0-9.]*\).*/\1/p' <<<"$out"
}

# median: of the numbers on standard input
median()
{
	sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# versus CLIENTS OURS PEER: runs two pgbench scripts in turn, GN_BENCH_ROUNDS times each, so
# that both meet the same machine; sets ours and peer to the median transactions per second
versus()
{
	local round
	: >ours.tps
	: >peer.tps
	for ((round = 0; round < GN_BENCH_ROUNDS; round++)); do
		tps "$1" "$2" >>ours.tps
		tps "$1" "$3" >>peer.tps
	done
	ours=$(median <ours.tps)
	peer=$(median <peer.tps)
}

# compare CLAIM OURS UNIT PEER-NAME PEER higher|lower FACTOR: ours has to be FACTOR times
# as good as the peer, where higher or lower is better
compare()
{
	local ratio
	claims=$((claims + 1))
	ratio=$(awk -v o="$2" -v p="$5" -v d="$6" 'BEGIN { printf "%.2f", d == "higher" ? o / p : p / o }')
	verdict "$ratio" "$7" "$1: $2 $3, $4 $5 $3: $ratio times as good (wanted: $7)"
}

# limit CLAIM VALUE UNIT at-most|at-least LIMIT: the value against a figure of the design
limit()
{
	local margin
	claims=$((claims + 1))
	margin=$(awk -v v="$2" -v l="$5" -v d="$4" 'BEGIN { printf "%.2f", d == "at-least" ? v / l : l / (v > 0 ? v : 1e-9) }')
	verdict "$margin" 1 "$1: $2 $3, $4 $5: $margin of the limit"
}

# verdict RATIO WANTED TEXT
verdict()
{
	if awk -v r="$1" -v w="$2" 'BEGIN { exit !(r >= w) }'; then
		echo "ok $claims - $3"
	else
		echo "not ok $claims - $3"
	fi
}
