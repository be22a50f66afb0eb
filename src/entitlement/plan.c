/*
 * src/entitlement/plan.c
 *	  What the planner is told about entitled(): ask once per statement.
 *
 * In a row policy a function stays a filter that is asked for each row, however stable
 * it is, because security conditions are tied to their table. The support function
 * makes it a subquery without a FROM clause, which is asked once per statement (an
 * InitPlan), as people are told to write by hand and forget; what is left for each row
 * is the test of a parameter. It never folds to a constant: a cached plan would outlive
 * the entitlement.
 */
#include "postgres.h"

#include "catalog/pg_proc.h"
#include "nodes/makefuncs.h"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes" /* 15 declares without */
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#pragma GCC diagnostic pop
#include "nodes/supportnodes.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "core/core.h"
#include "entitlement/entitlement.h"
#include "entitlement/record.h"

GN_FUNCTION(gn_entitlement_support);

static bool ask_once = true;

/* Does an expression hold anything that may differ from row to row? */
static bool
may_move(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Const:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_List:
			break;
		case T_Param:
			return ((Param *) node)->paramkind != PARAM_EXTERN;
		case T_FuncExpr:
			if (((FuncExpr *) node)->funcretset ||
				func_volatile(((FuncExpr *) node)->funcid) == PROVOLATILE_VOLATILE)
				return true;
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, may_move, context);
}

/* The planner gives a query without a FROM clause a relation of one empty row. */
static bool
has_from_clause(const Query *query)
{
	ListCell *cell;

	foreach (cell, query->rtable)
	{
		if (((RangeTblEntry *) lfirst(cell))->rtekind != RTE_RESULT)
			return true;
	}
	return false;
}

/* (SELECT call) */
static Node *
as_subquery(FuncExpr *call)
{
	Query *query = makeNode(Query);
	SubLink *link = makeNode(SubLink);

	query->commandType = CMD_SELECT;
	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	query->jointree = makeFromExpr(NIL, NULL);
	query->targetList = list_make1(
		makeTargetEntry(copyObject(&call->xpr), 1, pstrdup("entitled"), false));
	link->subLinkType = EXPR_SUBLINK;
	link->subselect = (Node *) query;
	link->location = -1;
	return (Node *) link;
}

/*
 * SQL: _grownext.entitlement_support(internal)
 *
 * Runs while expressions are simplified, which is before the planner turns subqueries
 * of an expression into plans. A query without a FROM clause asks once anyway, and the
 * subquery made here is one.
 */
Datum
gn_entitlement_support(PG_FUNCTION_ARGS)
{
	Node *request = (Node *) PG_GETARG_POINTER(0);
	SupportRequestSimplify *simplify;
	Query *parse;

	if (!ask_once || !IsA(request, SupportRequestSimplify))
		PG_RETURN_POINTER(NULL);
	simplify = (SupportRequestSimplify *) request;
	parse = simplify->root ? simplify->root->parse : NULL;
	if (parse == NULL || !has_from_clause(parse) ||
		may_move((Node *) simplify->fcall, NULL))
		PG_RETURN_POINTER(NULL);
	parse->hasSubLinks = true;
	PG_RETURN_POINTER(as_subquery(simplify->fcall));
}

void
gn_plan_init(void)
{
	DefineCustomBoolVariable(
		"grownext.entitled_once",
		"Whether entitled() with constant arguments is asked once per statement.",
		"Off, a row policy asks it for each row.", &ask_once, true, PGC_SUSET, 0, NULL,
		NULL, NULL);
}
