"""The fast paths: functions that stand in for ops of the same name, one package a device.

Only the backend imports them, when an op first runs on that device.
"""
