# demo/lib.sh -- where the demo lives, and how it speaks; sourced by bash
#
# Everything the demo writes is below demo/.run, or, when the unprivileged user who
# must run the server cannot reach that (a checkout below /root), below
# ${TMPDIR:-/tmp}/grownext-demo.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# The user who runs the server: initdb refuses root.
demo_user()
{
	if [ "$(id -u)" -ne 0 ]; then
		id -un
	elif id postgres >/dev/null 2>&1; then
		echo postgres
	else
		echo nobody
	fi
}

as_user()
{
	if [ "$(id -u)" -ne 0 ]; then
		"$@"
	else
		setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups \
			env HOME="$run" USER="$user" LOGNAME="$user" "$@"
	fi
}

user=$(demo_user)
run=$here/demo/.run
if [ "$(id -u)" -eq 0 ] && ! setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups test -x "$here/demo"; then
	run=${TMPDIR:-/tmp}/grownext-demo
fi
# A socket's path has at most 107 bytes.
if [ ${#run} -gt 80 ]; then
	run=/tmp/grownext-demo-$(id -u)
fi
data=$run/data
socket=$run/socket
port=54329
bin=$run/pg$("${PG_CONFIG:-pg_config}" --bindir 2>/dev/null || true)

bold= dim= green= red= plain=
if [ -t 1 ] && [ "${TERM:-dumb}" != dumb ]; then
	bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

passed=0
failed=0

chapter() { printf '\n%s== %s%s%s  (%d s)%s\n' "$bold" "$*" "$plain" "$dim" $((SECONDS - started)) "$plain"; }
# say LINE...: prose; an empty line is an empty line
say() { printf '%s\n' "$@" | fold -s -w 88 | sed -e 's/ *$//'; }

# claim TEXT GOT WANTED: one line of proof
claim()
{
	if [ "$2" = "$3" ]; then
		passed=$((passed + 1))
		printf '%sPASS%s %s\n' "$green" "$plain" "$1"
	else
		failed=$((failed + 1))
		printf '%sFAIL%s %s: got "%s", wanted "%s"\n' "$red" "$plain" "$1" "$2" "$3"
	fi
}

# matches TEXT GOT PATTERN: the same, for a shell pattern
matches()
{
	# shellcheck disable=SC2254
	case $2 in
		$3) claim "$1" yes yes ;;
		*) claim "$1" "$2" "$3" ;;
	esac
}

psql_as()
{
	local role=$1
	shift
	as_user "$bin/psql" -X -q -h "$socket" -p "$port" -U "$role" -d acme "$@"
}

# show ROLE [psql options] <<SQL: prints the SQL as typed at a prompt, then its output
show()
{
	local role=$1 text
	shift
	text=$(cat)
	printf '%s\n' "$text" | sed -e "s/^/${dim}${role#acme_}>${plain} /"
	printf '%s\n' "$text" | psql_as "$role" -P pager=off -P footer=off "$@" 2>&1 | without_void | sed -e 's/^/    /'
}

# Drops results that say nothing: one column, one row, no text
without_void()
{
	awk 'BEGIN { RS = ""; FS = "\n" } !(NF == 3 && $2 ~ /^-+$/ && $3 ~ /^ *$/) && !(NF == 2 && $2 ~ /^-+$/) { print $0 "\n" }'
}

# ask ROLE SQL [psql options]: one value, silently
ask()
{
	local role=$1 text=$2
	shift 2
	printf '%s\n' "$text" | psql_as "$role" -A -t "$@" 2>&1 | sed -e '/^$/d'
}

# wait_for ROLE SQL WANTED: polls until the answer is there, at most half a minute
wait_for()
{
	local deadline=$((SECONDS + 30)) answer=
	while [ $SECONDS -lt $deadline ]; do
		answer=$(ask "$1" "$2")
		[ "$answer" != "$3" ] || break
		sleep 0.1
	done
	printf '%s' "$answer"
}

# A session that stays open: open_session ROLE; in_session SQL; close_session
open_session()
{
	coproc session { psql_as "$1" -A -t 2>&1; }
}

in_session()
{
	local line
	printf '%s\n\\echo --end--\n' "$1" >&"${session[1]}"
	while IFS= read -r line <&"${session[0]}"; do
		[ "$line" != "--end--" ] || break
		[ -z "$line" ] || printf '%s\n' "$line"
	done
}

close_session()
{
	printf '\\q\n' >&"${session[1]}"
	wait "$session_PID" 2>/dev/null
}
