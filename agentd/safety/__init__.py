"""Who may do what: policy, approvals, audit, budgets, freeze, ownership."""
