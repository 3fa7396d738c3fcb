"""How much goes from each group: tolerance curves, costs, budgets and the search. Pure numpy."""
