# test/lib/common.sh -- what the suites share; sourced by bash
#
# test/run gives: GN_SRC, the copy of the tree that is tested; GN_WORK, the run's
# temporary directory; PG_CONFIG, the private installation; a PATH that begins
# with its programs; and the suite's own empty directory as the current one.
set -uo pipefail

# counted FORMAT COMMAND...: runs it, shows its output, and ends the suite with its count
counted()
{
	local format=$1 status result
	shift
	("$@") >raw.log 2>&1 </dev/null
	status=$?
	cat raw.log
	[ $status -eq 0 ] || echo "exit status $status"
	result=$("$GN_SRC/test/lib/count" "$format" $status <raw.log)
	echo "$result"
	case $result in
		*' 0 failed') exit 0 ;;
	esac
	exit 1
}

# broken MESSAGE: ends the suite as one failure
broken()
{
	printf '%s\n' "$@" "0 passed, 1 failed"
	exit 1
}

# start_server: a preloaded server of the suite's own in the current directory. It
# listens on no port: its socket is in a directory that only this user can enter,
# so it cannot clash with another. PGHOST, PGPORT and PGUSER lead to it. Its settings are
# those of test/grownext.conf, or of $GN_SERVER_CONF.
start_server()
{
	initdb -D data -U postgres -A trust -N --no-instructions -E UTF8 --locale=C.UTF-8 >initdb.log 2>&1 ||
		{ cat initdb.log; broken "initdb failed"; }
	cat "${GN_SERVER_CONF:-$GN_SRC/test/grownext.conf}" >>data/postgresql.conf
	mkdir -m 700 s
	export PGHOST=$PWD/s PGPORT=5432 PGUSER=postgres
	printf '%s\n' "listen_addresses = ''" "port = $PGPORT" "unix_socket_directories = '$PGHOST'" \
		>>data/postgresql.conf
	trap 'pg_ctl -D data stop -m fast >/dev/null 2>&1' EXIT
	trap 'exit 1' INT TERM
	pg_ctl -D data -l server.log -w start >/dev/null 2>&1 || { cat server.log; broken "the server did not start"; }
}

# sql DATABASE: runs SQL from standard input; the first error ends the suite
sql()
{
	psql -X -q -v ON_ERROR_STOP=1 -d "$1" || { tail -n 20 server.log; broken "SQL failed in database $1"; }
}
