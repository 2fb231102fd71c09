"""Purification of many photographs."""
