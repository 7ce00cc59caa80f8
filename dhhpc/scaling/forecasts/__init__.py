"""Forecasts for more ranks and other machines: probes, described machines, a simulation."""
