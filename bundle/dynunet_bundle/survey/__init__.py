"""A survey of every file of a data set: findings for users, facts for the planner."""
