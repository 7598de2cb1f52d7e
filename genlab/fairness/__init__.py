"""What is held equal: budgets and the ledger."""
