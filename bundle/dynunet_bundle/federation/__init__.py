"""Federated learning: hospitals train one model together, and exchange weights only."""
