# test/targets.mk -- the targets of development; the Makefile includes this last.
# None of them touches what "make", "make install" and "make installcheck" do.

TOOL = PG_CONFIG="$(PG_CONFIG)" $(srcdir)

.PHONY: test torture lint format matrix bench sanitize fuzz ack

# Every suite, or SUITES="regress pgtap"
test:
	+@$(TOOL)/test/run $(SUITES)

# Every rule, or RULES="format exports"
# The long form of what kills and contends: minutes to an hour, with the seeds that it prints
torture:
	+@GN_VERBOSE=1 GN_TAP_TESTS="$(or $(TORTURE),027_oversell 032_queue_torture)" GN_TEST_TIMEOUT=7200 \
		GN_TORTURE_OPERATIONS=$(or $(GN_TORTURE_OPERATIONS),1000000) GN_TORTURE_KILLS=$(or $(GN_TORTURE_KILLS),1000) \
		GN_TORTURE_RESTARTS=$(or $(GN_TORTURE_RESTARTS),50) $(TOOL)/test/run tap

lint:
	+@$(TOOL)/test/lint/run $(RULES)

format:
	@$(srcdir)/test/lint/format --fix

# Every supported server in a folder of its own, or VERSIONS="17 18", SUITES="tap"
matrix:
	+@SUITES="$(SUITES)" TASK="$(TASK)" $(TOOL)/test/matrix $(VERSIONS)

# Every benchmark, or BENCHES="enqueue"
bench:
	+@$(TOOL)/test/bench/run $(BENCHES)

sanitize:
	+@$(TOOL)/test/sanitize

# Every fuzz target for FUZZ_SECONDS, or FUZZ="jws"
FUZZ_SECONDS ?= 60
fuzz:
	+@$(TOOL)/test/fuzz/run --corpus $(FUZZ_SECONDS) $(FUZZ)

# After a look at "make test": what the regression tests printed is what they should print.
ack:
	@$(TOOL)/test/ack
