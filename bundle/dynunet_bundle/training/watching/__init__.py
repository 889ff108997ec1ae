"""What people see of a training while it runs."""
