# test/lint/build.sh -- builds a copy of the tree with all warnings as errors
#
# build COMPILER: leaves the copy with its objects in $GN_LINT_DIR/COMPILER. What the
# server's own headers trip is off: unused-parameter, sign-compare, and
# missing-field-initializers ({0} and sentinel rows).
build()
{
	local compiler=$1
	: "${GN_LINT_DIR:?is set by test/lint/run}"
	[ -d "$GN_LINT_DIR/$compiler" ] || test/lib/copy-tree "$GN_LINT_DIR/$compiler" || return 1
	make -s -Otarget -C "$GN_LINT_DIR/$compiler" -j"$(nproc)" ${PG_CONFIG:+PG_CONFIG="$PG_CONFIG"} with_llvm=no \
		CC="$compiler" all \
		COPT="-Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers $2"
}
