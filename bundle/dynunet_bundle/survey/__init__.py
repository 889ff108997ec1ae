"""One look at every file of a data set: findings for people, facts for the planner."""
