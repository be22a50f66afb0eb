# test/lint/common.sh -- what the rules share; sourced by bash, in the root of the tree
#
# A rule prints one line per offence, "file:line: what is wrong", and fails if there is any.
set -uo pipefail

offences=0
offend()
{
	printf '%s\n' "$*"
	offences=$((offences + 1))
}

# The exit status of a rule
verdict()
{
	[ "$offences" -eq 0 ]
}

# files PATTERN...: what git tracks or would add, and is there
files()
{
	local file
	if [ -e .git ]; then
		git -c safe.directory='*' ls-files --cached --others --exclude-standard -- "$@" 2>/dev/null
	else
		for file in "$@"; do
			find . -path "./$file" -type f | sed 's,^\./,,'
		done
	fi | sort -u | while read -r file; do
		[ ! -f "$file" ] || printf '%s\n' "$file"
	done
}

# COMPONENTS of the Makefile, in their order
components()
{
	sed -n 's/^COMPONENTS *:*= *//p' Makefile
}

# A variable of the Makefile, with what PGXS makes of it
variable()
{
	make -s --no-print-directory -f Makefile -f /dev/stdin ${PG_CONFIG:+PG_CONFIG="$PG_CONFIG"} print <<MAKE
print:
	@echo \$($1)
MAKE
}
