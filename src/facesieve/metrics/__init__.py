"""Rates, their intervals, and open-set calibration."""
