# demo/targets.mk -- the guided tour; the Makefile includes this last.

.PHONY: demo demo-stop

demo:
	+@PG_CONFIG="$(PG_CONFIG)" $(srcdir)/demo/run

demo-stop:
	@$(srcdir)/demo/stop
