"""Safety: policy, approvals, audit, budgets, freeze and marks of ownership."""
