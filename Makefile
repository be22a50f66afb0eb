# GrowNext. COMPONENTS is compile list, SQL order and the legal direction of
# dependencies at once: a component may use only what stands to its left.
EXTENSION  = grownext
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(srcdir)/$(EXTENSION).control)
COMPONENTS = core crypto queue audit stream schedule jwt account tenant session entitlement billing
PKGS       = libcrypto jansson

srcdir     = $(patsubst %/,%,$(dir $(abspath $(firstword $(MAKEFILE_LIST)))))
MODULE_big = $(EXTENSION)
C_SOURCES  = src/grownext.c $(foreach c,$(COMPONENTS),$(sort $(patsubst $(srcdir)/%,%,$(wildcard $(srcdir)/src/$c/*.c))))
OBJS       = $(C_SOURCES:.c=.o)
SCRIPT     = $(EXTENSION)--$(EXTVERSION).sql

# One upgrade script per released version that src/upgrade has a delta from; see there.
UPGRADE_DIR     = $(srcdir)/src/upgrade
UPGRADE_SCRIPTS = $(foreach d,$(notdir $(wildcard $(UPGRADE_DIR)/*--*.sql)),$(EXTENSION)--$(firstword $(subst --, ,$d))--$(EXTVERSION).sql)

DATA_built = $(SCRIPT) $(UPGRADE_SCRIPTS)
EXTRA_CLEAN = $(SCRIPT) $(UPGRADE_SCRIPTS) tmp_check tmp_check_iso output_iso results regression.diffs regression.out

PG_CPPFLAGS = -I$(srcdir)/src -DGN_VERSION='"$(EXTVERSION)"' $(shell pkg-config --cflags $(PKGS))
PG_CFLAGS   = -std=gnu11 -fvisibility=hidden
SHLIB_LINK  = $(shell pkg-config --libs $(PKGS))

REGRESS        = $(sort $(basename $(notdir $(wildcard $(srcdir)/sql/*.sql))))
REGRESS_OPTS   = --temp-instance=tmp_check --temp-config=$(srcdir)/test/grownext.conf --dbname=contrib_regression
ISOLATION      = $(sort $(basename $(notdir $(wildcard $(srcdir)/test/isolation/specs/*.spec))))
ISOLATION_OPTS = --inputdir=$(srcdir)/test/isolation --temp-instance=tmp_check_iso --temp-config=$(srcdir)/test/grownext.conf \
    --temp-config=$(srcdir)/test/isolation/isolation.conf

# Built in another directory (make -f /path/to/Makefile), sources are found here.
ifneq ($(srcdir),$(CURDIR))
VPATH := $(srcdir)
$(shell mkdir -p $(sort $(dir $(OBJS))))
endif

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS tracks no headers on Debian: any header rebuilds everything, which is cheap.
$(OBJS): $(wildcard $(srcdir)/src/*/*.h) $(srcdir)/Makefile $(srcdir)/$(EXTENSION).control

# The install script: prologue, every table, every function, the two functions
# that speak for all components, and every GRANT, in component order. A component with
# much SQL keeps functions of one noun in <noun>.sql beside functions.sql.
SQL_SOURCES = src/prologue.sql \
    $(patsubst $(srcdir)/%,%,$(wildcard $(COMPONENTS:%=$(srcdir)/src/%/tables.sql))) \
    $(foreach c,$(COMPONENTS),$(patsubst $(srcdir)/%,%,$(wildcard $(srcdir)/src/$c/functions.sql) \
        $(filter-out %/tables.sql %/functions.sql,$(sort $(wildcard $(srcdir)/src/$c/*.sql))))) \
    src/platform.sql src/epilogue.sql

$(SCRIPT): $(addprefix $(srcdir)/,$(SQL_SOURCES)) $(srcdir)/Makefile
	cat $(addprefix $(srcdir)/,$(SQL_SOURCES)) > $@

# From a released version to this one: the deltas of the tables since, then everything
# that can be replayed.
$(EXTENSION)--%--$(EXTVERSION).sql: $(wildcard $(UPGRADE_DIR)/*--*.sql) $(SCRIPT)
	{ printf '%s\n' '\echo Use "ALTER EXTENSION $(EXTENSION) UPDATE" to load this file. \quit'; \
	  cat $$(ls $(UPGRADE_DIR)/*--*.sql | sort -V | sed -n '\,/$*--,,$$p') \
	      $(addprefix $(srcdir)/,$(filter-out src/prologue.sql %/tables.sql,$(SQL_SOURCES))); } > $@

-include $(srcdir)/test/targets.mk
-include $(srcdir)/demo/targets.mk
